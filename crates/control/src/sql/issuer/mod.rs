//! Tokens that somebody else issues: JSON Web Tokens for SQL over HTTP.
//!
//! Owns: which tokens are believed, and what one of them allows. Does not own: the keys of an issuer
//! ([`keys`]), or what is done with the permission (`http`, `neon`). Everything that is not plainly
//! right is refused: 401 when nobody is proved by it, 403 when somebody is who may not.
//!
//! RFC 7519 (tokens), RFC 8725 (what has gone wrong with them), RFC 7517 (keys).

mod keys;
mod source;

use std::{path::PathBuf, time::Duration};

use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use model::{ProjectId, Role, TenantId};
use serde::Deserialize;
use serde_json::Value;

use self::keys::{Keys, NoKey};
use crate::api::error::{ApiError, ErrorCode};

/// Algorithms that are taken: signatures with a key that is public. Not `none`, and no HMAC, whose key
/// would be a public key to whoever confuses the two.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// Longest token that is looked at. Issuers' tokens have 1 to 2 kB; headers end at 32 KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How far two clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// Somebody whose tokens are believed. Named by the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    /// The claim `iss`, to the letter.
    pub name: String,
    /// What the claim `aud` has to hold.
    pub audience: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// The claim that holds the id of the database.
    pub tenant_claim: String,
    /// The claim that holds what is allowed: words `read`, `write`, `admin`, as one text or a list.
    pub scope_claim: String,
    /// Whether its word `admin` counts.
    pub admin: bool,
    /// The projects for whose databases it speaks; `None`: for those of all.
    pub projects: Option<Vec<ProjectId>>,
}

/// Where a set of keys (JWKS) is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// A file, read again as a URL would be.
    File(PathBuf),
    /// `https`, or `http` on this machine.
    Url(url::Url),
}

impl KeySource {
    /// # Errors
    ///
    /// What is wrong with the address.
    pub fn url(text: &str) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| format!("'{text}': {error}"))?;
        let is_local = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match url.scheme() {
            "https" if url.host().is_some() => Ok(Self::Url(url)),
            "http" if is_local => Ok(Self::Url(url)),
            _ => Err(format!(
                "'{text}': keys are read over https, or over http from this machine"
            )),
        }
    }
}

/// What a token allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    pub(crate) tenant: TenantId,
    /// The role with the most rights that it may work as.
    pub(crate) role: Role,
    /// The project of the database has to be one of these; `None`: it is not looked at.
    pub(crate) projects: Option<Vec<ProjectId>>,
}

impl Grant {
    /// Whether it counts at the databases of a project.
    pub(crate) fn is_for(&self, project: &ProjectId) -> bool {
        self.projects
            .as_ref()
            .is_none_or(|projects| projects.contains(project))
    }

    /// The role to work as at a database: the one asked for, or the most that is allowed.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::TokenWrongDatabase`], [`ErrorCode::TokenScope`].
    pub(crate) fn role_at(
        &self,
        tenant: Option<&TenantId>,
        asked: Option<Role>,
    ) -> Result<Role, ErrorCode> {
        if tenant != Some(&self.tenant) {
            return Err(ErrorCode::TokenWrongDatabase);
        }
        let role = asked.unwrap_or(self.role);
        if rank(role) > rank(self.role) {
            return Err(ErrorCode::TokenScope);
        }
        Ok(role)
    }
}

/// Roles by what they may.
pub(crate) fn rank(role: Role) -> u8 {
    match role {
        Role::Read => 0,
        Role::Write => 1,
        Role::Admin => 2,
    }
}

/// All issuers, with what is known of their keys.
pub(crate) struct Issuers(Vec<(Issuer, Keys)>);

/// How long keys are used, and how often they are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) fresh: Duration,
    pub(crate) stale_max: Duration,
    pub(crate) every: Duration,
}

impl Issuers {
    pub(crate) fn new(issuers: &[Issuer], pace: Pace) -> Self {
        let with_keys = |issuer: &Issuer| (issuer.clone(), Keys::new(issuer.keys.clone(), pace));
        Self(issuers.iter().map(with_keys).collect())
    }

    /// The token in these headers, when it is one of this kind and there are issuers at all.
    pub(crate) fn token<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        if self.0.is_empty() {
            return None;
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (scheme, token) = values.next()?.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        // Our own tokens have no dots.
        let is_token = scheme.eq_ignore_ascii_case("bearer") && token.split('.').count() == 3;
        (is_token && values.next().is_none()).then_some(token)
    }

    /// # Errors
    ///
    /// [`ErrorCode::TokenRefused`], [`ErrorCode::ExpiredToken`], [`ErrorCode::IssuerUnreachable`] when
    /// nobody is proved; [`ErrorCode::TokenWrongDatabase`], [`ErrorCode::TokenScope`] when the
    /// token names no database or allows nothing.
    pub(crate) async fn verify(&self, token: &str) -> Result<Grant, ApiError> {
        self.grant(token).await.map_err(|refused| {
            tracing::info!(
                reason = refused.why,
                code = refused.code.as_str(),
                "token refused"
            );
            match refused.code {
                ErrorCode::ExpiredToken => {
                    ApiError::from(refused.code).hint("get a new one from its issuer")
                }
                code => code.into(),
            }
        })
    }

    async fn grant(&self, token: &str) -> Result<Grant, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused("its header"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("its algorithm"));
        }
        // RFC 7515, section 4.1.11: what is critical has to be understood, and we understand nothing of it.
        if header.crit.is_some() || header.extras.inner().contains_key("b64") {
            return Err(refused("it has critical headers"));
        }
        let kid = header.kid.ok_or_else(|| refused("it names no key"))?;
        // Only to find the keys; what it says counts when the signature was checked.
        let named: Named = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| refused("its claims"))?;
        let (issuer, keys) = self
            .0
            .iter()
            .find(|(issuer, _)| issuer.name == named.iss)
            .ok_or_else(|| refused("its issuer"))?;
        let key = keys.find(&kid).await.map_err(|no_key| match no_key {
            NoKey::Unknown => refused("its key is none of the issuer's"),
            NoKey::Unreachable => Refused {
                code: ErrorCode::IssuerUnreachable,
                why: "the issuer's keys cannot be read",
            },
        })?;
        // One key, one algorithm: the header does not choose.
        if key.algorithm != header.alg {
            return Err(refused("its algorithm is not the key's"));
        }
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&issuer.name]);
        validation.set_audience(&[&issuer.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation);
        let claims = claims.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Refused {
                code: ErrorCode::ExpiredToken,
                why: "it has expired",
            },
            ErrorKind::ImmatureSignature => refused("it is not valid yet"),
            ErrorKind::InvalidSignature => refused("its signature"),
            ErrorKind::InvalidAudience => refused("its audience"),
            _ => refused("its claims"),
        })?;
        allowed(issuer, &claims.claims)
    }
}

/// All that is read before the signature was checked.
#[derive(Deserialize)]
struct Named {
    iss: String,
}

/// Why a token is refused; the reason is for the log.
struct Refused {
    code: ErrorCode,
    why: &'static str,
}

fn refused(why: &'static str) -> Refused {
    Refused {
        code: ErrorCode::TokenRefused,
        why,
    }
}

/// What claims allow that were proved.
fn allowed(issuer: &Issuer, claims: &Value) -> Result<Grant, Refused> {
    let tenant = claims[&issuer.tenant_claim].as_str();
    let tenant = tenant.and_then(|text| text.parse().ok()).ok_or(Refused {
        code: ErrorCode::TokenWrongDatabase,
        why: "it names no database",
    })?;
    let words: Vec<&str> = match &claims[&issuer.scope_claim] {
        Value::String(text) => text.split_ascii_whitespace().collect(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let roles = words.into_iter().filter_map(|word| match word {
        "read" => Some(Role::Read),
        "write" => Some(Role::Write),
        "admin" if issuer.admin => Some(Role::Admin),
        _ => None,
    });
    let role = roles.max_by_key(|role| rank(*role)).ok_or(Refused {
        code: ErrorCode::TokenScope,
        why: "its scope allows nothing",
    })?;
    Ok(Grant {
        tenant,
        role,
        projects: issuer.projects.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_allow_what_they_say_and_no_more() {
        let mut issuer = Issuer {
            name: "https://auth.example".to_owned(),
            audience: "tenantry".to_owned(),
            keys: KeySource::File("keys.json".into()),
            tenant_claim: "tenant".to_owned(),
            scope_claim: "scope".to_owned(),
            admin: false,
            projects: None,
        };
        let check = |issuer: &Issuer, scope: Value| {
            let claims = json!({"tenant": "abcdefghijkl", "scope": scope});
            allowed(issuer, &claims)
                .map(|grant| grant.role)
                .map_err(|refused| refused.code)
        };
        assert_eq!(check(&issuer, json!("read")), Ok(Role::Read));
        assert_eq!(check(&issuer, json!("openid read write")), Ok(Role::Write));
        assert_eq!(check(&issuer, json!(["write"])), Ok(Role::Write));
        assert_eq!(check(&issuer, json!("read admin")), Ok(Role::Read));
        for nothing in [
            json!("admin"),
            json!(""),
            json!("READ"),
            json!("reader"),
            json!(null),
            json!({"read": true}),
            json!([["read"]]),
        ] {
            assert_eq!(
                check(&issuer, nothing.clone()),
                Err(ErrorCode::TokenScope),
                "{nothing}"
            );
        }
        issuer.admin = true;
        assert_eq!(check(&issuer, json!("admin")), Ok(Role::Admin));
        for tenant in [json!(null), json!(7), json!("*"), json!(["abcdefghijkl"])] {
            let claims = json!({"tenant": tenant, "scope": "read"});
            let refused = allowed(&issuer, &claims).err().map(|refused| refused.code);
            assert_eq!(refused, Some(ErrorCode::TokenWrongDatabase), "{tenant}");
        }
    }

    #[test]
    fn a_grant_is_for_one_database_and_no_higher_role() {
        let own: TenantId = "abcdefghijkl".parse().unwrap();
        let other: TenantId = "bbcdefghijkl".parse().unwrap();
        let grant = Grant {
            tenant: own.clone(),
            role: Role::Write,
            projects: None,
        };
        assert_eq!(grant.role_at(Some(&own), None), Ok(Role::Write));
        assert_eq!(grant.role_at(Some(&own), Some(Role::Read)), Ok(Role::Read));
        assert_eq!(
            grant.role_at(Some(&own), Some(Role::Admin)),
            Err(ErrorCode::TokenScope)
        );
        for wrong in [Some(&other), None] {
            assert_eq!(
                grant.role_at(wrong, None),
                Err(ErrorCode::TokenWrongDatabase)
            );
        }
    }

    #[test]
    fn a_grant_counts_in_the_projects_of_its_issuer() {
        let [one, other]: [ProjectId; 2] =
            ["prj_abcdefghijkl", "prj_bbcdefghijkl"].map(|id| id.parse().unwrap());
        let mut grant = Grant {
            tenant: "abcdefghijkl".parse().unwrap(),
            role: Role::Read,
            projects: None,
        };
        assert!(grant.is_for(&one) && grant.is_for(&other));
        grant.projects = Some(vec![one.clone()]);
        assert!(grant.is_for(&one) && !grant.is_for(&other));
        grant.projects = Some(Vec::new());
        assert!(!grant.is_for(&one));
    }

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for right in [
            "https://auth.example/jwks.json",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/jwks",
            "http://localhost/jwks",
        ] {
            assert!(KeySource::url(right).is_ok(), "{right}");
        }
        for wrong in [
            "http://auth.example/jwks.json",
            "http://127.0.0.1.example/",
            "file:///etc/passwd",
            "jwks.json",
            "ftp://127.0.0.1/",
        ] {
            assert!(KeySource::url(wrong).is_err(), "{wrong}");
        }
    }
}
