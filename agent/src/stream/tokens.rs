//! One-shot tokens: whoever has one is who asked the CRI for it, once, and within a minute.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Session, StreamError};

/// How long a token is good for: kubelet connects at once.
const LIFE: Duration = Duration::from_secs(60);
/// Tokens that are good at one time; as many as kubelet's own server keeps.
const CAP: usize = 1000;

/// The tokens that have not been used. Time is told, not asked for.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<String, (Instant, Session)>);

impl Tokens {
    /// A new token for the session: 256 random bits, to be written in a URL.
    ///
    /// # Errors
    /// When too many wait to be used, or the kernel gives no random bytes.
    pub(super) fn insert(&mut self, session: Session, now: Instant) -> Result<String, StreamError> {
        if self.0.len() >= CAP {
            self.sweep(now);
        }
        if self.0.len() >= CAP {
            return Err(StreamError::TooMany(CAP));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| StreamError::Random(io::Error::other(error)))?;
        let token = URL_SAFE_NO_PAD.encode(random);
        self.0.insert(token.clone(), (now + LIFE, session));
        Ok(token)
    }

    /// The session of that kind, if the token is good. It is not afterwards, also when its session is of another kind.
    pub(super) fn take(&mut self, kind: &str, token: &str, now: Instant) -> Option<Session> {
        let (until, session) = self.0.remove(token)?;
        (until > now && session.kind() == kind).then_some(session)
    }

    /// Drops the sessions that nobody came for.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, (until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn session() -> Session {
        Session::PortForward {
            connect: Arc::new(|_| Box::pin(async { Err("nothing".into()) })),
            gone: Box::pin(std::future::pending()),
        }
    }

    #[test]
    fn a_token_is_good_once_for_its_kind_and_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let once = tokens.insert(session(), now).unwrap();
        assert_eq!(once.len(), 43);
        assert!(tokens.take("portforward", &once, now + LIFE / 2).is_some());
        assert!(tokens.take("portforward", &once, now + LIFE / 2).is_none());
        let other = tokens.insert(session(), now).unwrap();
        assert!(tokens.take("exec", &other, now).is_none());
        assert!(tokens.take("portforward", &other, now).is_none(), "a wrong guess of the kind is no second chance");
        let late = tokens.insert(session(), now).unwrap();
        assert!(tokens.take("portforward", &late, now + LIFE).is_none());
    }

    #[test]
    fn the_map_has_a_cap_and_the_expired_leave_room() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..CAP {
            tokens.insert(session(), now).unwrap();
        }
        assert!(matches!(tokens.insert(session(), now), Err(StreamError::TooMany(CAP))));
        tokens.insert(session(), now + LIFE).unwrap();
        assert_eq!(tokens.0.len(), 1);
    }
}
