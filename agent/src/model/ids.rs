//! The identifiers of the model, as types that cannot be mixed up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A pod sandbox's id: 64 lower-case hexadecimal digits, random, never used again.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(Arc<str>);

/// A container's id: 64 lower-case hexadecimal digits, random, never used again.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Arc<str>);

/// A string that is not an id of this agent's making.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: an id is 64 lower-case hexadecimal digits")]
pub struct InvalidId(String);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// A new random id (256 bits from the kernel).
            ///
            /// # Errors
            /// When the kernel gives no random bytes (getrandom(2)).
            pub fn random() -> std::io::Result<Self> {
                let mut bytes = [0u8; 32];
                getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
                let mut text = String::with_capacity(64);
                for byte in bytes {
                    use fmt::Write;
                    let _ = write!(text, "{byte:02x}");
                }
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 64 && text.bytes().all(hex) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId(text.chars().take(80).collect()))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(PodId);
id!(ContainerId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (PodId::random().unwrap(), PodId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<PodId>(), Ok(a.clone()));
    }

    #[test]
    fn what_could_climb_out_of_a_folder_is_no_id() {
        for bad in ["", "..", "../x", &"A".repeat(64), &"a".repeat(63), &"g".repeat(64)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
