//! The door of a proxy that only knows how to log in and copy bytes, so that SQL over HTTP can be
//! tested without the real one. What it does about logins is real: routes, SCRAM, one use.

use model::{
    LoginName,
    route::{Access, Door, NodeAddress, Resolved, RouteClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use wire::{
    login::{
        client::{AfterInitial, AwaitStartup, Began, Seed},
        server::{self, Credentials, Step},
    },
    message::{Message, build},
    scram::{self, ChannelBinding},
    startup::{Protocol, first_packet},
};
use zeroize::Zeroizing;

pub fn open(routes: RouteClient, secret: [u8; 32]) -> Door {
    let (door, mut streams) = tokio::sync::mpsc::channel::<model::route::Visit>(8);
    tokio::spawn(async move {
        while let Some(visit) = streams.recv().await {
            let routes = routes.clone();
            tokio::spawn(async move {
                let stream = UnixStream::from_std(visit.stream).unwrap();
                // A client that goes away is no concern of a test's door.
                let _ = serve(stream, routes, secret).await;
            });
        }
    });
    door
}

/// One message after the other.
struct Reader {
    stream: UnixStream,
    buf: Vec<u8>,
}

impl Reader {
    async fn more(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.stream.read_buf(&mut self.buf).await? > 0, "closed");
        Ok(())
    }

    async fn message(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        loop {
            if self.buf.len() >= 5 {
                let length = u32::from_be_bytes(self.buf[1..5].try_into()?) as usize;
                if self.buf.len() > length {
                    let message: Vec<u8> = self.buf.drain(..=length).collect();
                    return Ok((message[0], message[5..].to_vec()));
                }
            }
            self.more().await?;
        }
    }
}

async fn serve(stream: UnixStream, routes: RouteClient, secret: [u8; 32]) -> anyhow::Result<()> {
    let mut client = Reader {
        stream,
        buf: Vec::new(),
    };
    let asked = loop {
        if let Some((used, first)) = first_packet(&client.buf)? {
            client.buf.drain(..used);
            let Began::Asked(asked) = AwaitStartup::new(false).on(first)? else {
                anyhow::bail!("no startup packet")
            };
            break asked;
        }
        client.more().await?;
    };
    let user = asked.startup.user.clone();
    let login: LoginName = user.parse()?;
    let mut out = Vec::new();
    let state = asked.challenge(ChannelBinding::Unavailable, &mut out);
    client.stream.write_all(&out).await?;
    out.clear();

    let seed = Seed {
        nonce: scram::nonce()?,
        salt: scram::login_salt(control::Keys::derive(&secret).login_salt(), &user),
        iterations: scram::ITERATIONS_DEFAULT,
    };
    let (tag, body) = client.message().await?;
    let AfterInitial::Final(state) = state.on(Message { tag, body: &body }, &seed, &mut out)?
    else {
        anyhow::bail!("no initial response")
    };
    client.stream.write_all(&out).await?;
    out.clear();
    let (tag, body) = client.message().await?;
    let proved = state.on(Message { tag, body: &body })?;

    let resolved = routes.resolve(login).await?;
    let candidates = resolved
        .as_ref()
        .map(|found| &found.route.candidates[..])
        .unwrap_or_default();
    let keys: Vec<_> = candidates
        .iter()
        .map(|candidate| scram::Keys {
            stored_key: candidate.stored_key,
            server_key: candidate.server_key,
        })
        .collect();
    let found = proved.evaluate(&keys);
    let mut allowed = found.is_some();
    if let Some(found) = &found
        && candidates[found.candidate].one_use
    {
        allowed = routes.consume(candidates[found.candidate].id.clone()).await;
    }
    let (Some(resolved), Some(found), true) = (resolved, found, allowed) else {
        build::error_response(
            &build::Report {
                severity: build::Severity::Fatal,
                code: "28P01",
                message: "password authentication failed",
                detail: "",
                hint: "",
            },
            &mut out,
        );
        client.stream.write_all(&out).await?;
        return Ok(());
    };
    anyhow::ensure!(resolved.route.access == Access::Open, "not open");
    let settings = proved.startup().parameters.clone();
    proved.accept(&found, &mut out);
    client.stream.write_all(&out).await?;
    copy(client, resolved, settings).await
}

async fn copy(
    mut client: Reader,
    resolved: Resolved,
    settings: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let NodeAddress::Unix(socket) = &resolved.node.address else {
        anyhow::bail!("no socket")
    };
    let mut server = Reader {
        stream: UnixStream::connect(socket).await?,
        buf: Vec::new(),
    };
    let login = &resolved.route.server;
    let credentials = Credentials {
        user: login.user.clone(),
        password: Zeroizing::new(login.password.reveal().to_owned()),
        cached: None,
        binding: ChannelBinding::Unavailable,
        accept: Default::default(),
    };
    let role = format!("-c role={}", login.group.as_str());
    let mut parameters = vec![
        ("database", login.database.as_str()),
        ("options", role.as_str()),
    ];
    parameters.extend(
        settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let mut out = Vec::new();
    let nonce = scram::nonce()?;
    let mut state = server::start(credentials, Protocol::V3_0, &parameters, nonce, &mut out);
    loop {
        server.stream.write_all(&out).await?;
        out.clear();
        let (tag, body) = server.message().await?;
        match state.on(Message { tag, body: &body }, &mut out)? {
            Step::Continue(next) => state = next,
            Step::Ready(ready) => {
                build::ready_for_query(ready.status, &mut out);
                break;
            }
        }
    }
    client.stream.write_all(&out).await?;
    server.stream.write_all(&client.buf).await?;
    tokio::io::copy_bidirectional(&mut client.stream, &mut server.stream).await?;
    Ok(())
}
