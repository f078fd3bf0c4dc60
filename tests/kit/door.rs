//! A TCP address for a server that has a socket only, which can be made to fail.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
};

/// What happens once the server has said so many bytes, on all connections together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// All connections end, and new ones, as when the server is lost.
    Lost,
    /// Nothing of it comes any more until the door is gone, as when a network stands still.
    Stuck,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    said: u64,
    streams: Vec<(TcpStream, UnixStream)>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    limit: Option<(u64, Then)>,
    state: Mutex<State>,
    closed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of a door panics")
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for (client, server) in state.streams.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        self.closed.notify_all();
    }
}

/// A port of this machine that leads to a socket. Dropping it ends all that go through.
#[derive(Debug)]
pub struct Door {
    port: u16,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens one to the file `socket`, with a limit where one is given.
    ///
    /// # Panics
    ///
    /// When this machine has no port left.
    pub fn open(socket: &Path, limit: Option<(u64, Then)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            limit,
            state: Mutex::default(),
            closed: Condvar::new(),
        });
        let inside = shared.clone();
        let accept = std::thread::spawn(move || {
            for client in listener.incoming() {
                if inside.state().is_closed {
                    break;
                }
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&inside.socket)) else {
                    continue;
                };
                relay(&inside, client, server);
            }
        });
        Self {
            port,
            shared,
            accept: Some(accept),
        }
    }

    /// Its port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.close();
        // The thread that waits for clients sees it with the next one.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

/// Carries both ways, each by a thread that ends with its connection.
fn relay(shared: &Arc<Shared>, client: TcpStream, server: UnixStream) {
    let clone = |client: &TcpStream, server: &UnixStream| {
        (
            client.try_clone().expect("a descriptor"),
            server.try_clone().expect("a descriptor"),
        )
    };
    shared.state().streams.push(clone(&client, &server));
    let (mut from, mut to) = clone(&client, &server);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut to, mut from) = (client, server);
    let shared = shared.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let mut state = shared.state();
            state.said += read as u64;
            match shared.limit.filter(|(limit, _)| state.said > *limit) {
                Some((_, Then::Lost)) => {
                    drop(state);
                    shared.close();
                    return;
                }
                Some((_, Then::Stuck)) => {
                    while !state.is_closed {
                        state = shared.closed.wait(state).expect("no thread panics");
                    }
                    return;
                }
                None => drop(state),
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
