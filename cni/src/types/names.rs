//! Names that become parts of paths, variables and link names, and so are checked once, where they come in.

use std::fmt;
use std::str::FromStr;

/// A name that the specification does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?}: {reason}")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    reason: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                let invalid = |reason| InvalidName { what: $what, name: name.chars().take(80).collect(), reason };
                check(name).map(|()| Self(name.into())).map_err(invalid)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A container's id: an alphanumeric character, then those, `_`, `.` and `-`; at most 200 bytes, so that a file's name
    /// has room for it.
    ContainerId,
    "container id",
    identifier
);
name!(
    /// A network's name; the same characters.
    NetworkName,
    "network name",
    identifier
);
name!(
    /// The name of a link: 1 to 15 bytes without blank, `/` and `:` (the kernel's dev_valid_name()).
    InterfaceName,
    "interface name",
    interface
);

const LONGEST: usize = 200;

fn identifier(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is missing");
    }
    if name.len() > LONGEST {
        return Err("is longer than 200 bytes");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err("must be letters, digits, '_', '.' and '-', and begin with a letter or digit")
}

fn interface(name: &str) -> Result<(), &'static str> {
    if !(1..=15).contains(&name.len()) {
        return Err("must have 1 to 15 bytes");
    }
    if name == "." || name == ".." {
        return Err("is a folder");
    }
    if name.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b"/:".contains(&b)) {
        return Err("has a blank, '/' or ':'");
    }
    Ok(())
}

/// `CNI_ARGS`: `KEY=value` pairs with semicolons between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Pairs as they are passed on.
    ///
    /// # Errors
    /// When a key is empty, or a key or value has a `;`, or a key a `=`: they could not be told apart again.
    pub fn new(pairs: Vec<(String, String)>) -> Result<Self, InvalidName> {
        for (key, value) in &pairs {
            let bad = key.is_empty() || key.contains(['=', ';', '\0']) || value.contains([';', '\0']);
            if bad {
                let name = format!("{key}={value}").chars().take(80).collect();
                return Err(InvalidName { what: "CNI argument", name, reason: "has a ';', or no plain key" });
            }
        }
        Ok(Self(pairs))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All pairs.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl FromStr for Args {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let pair = |part: &str| match part.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => {
                let name = part.chars().take(80).collect();
                Err(InvalidName { what: "CNI argument", name, reason: "is no KEY=value" })
            }
        };
        let parts = text.split(';').filter(|part| !part.is_empty());
        Self::new(parts.map(pair).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Args {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let separator = if index > 0 { ";" } else { "" };
            write!(out, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for bad in ["", "..", ".a", "-a", "a/b", "a b", "a\n", "a:b", "é", &"a".repeat(201)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
        "0a.b_c-D".parse::<ContainerId>().unwrap();
        for bad in ["", "..", ".", "a/b", "a b", "a:b", "0123456789abcdef", "a\0"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
        "eth0".parse::<InterfaceName>().unwrap();
    }

    #[test]
    fn arguments_are_pairs() {
        let args: Args = "IgnoreUnknown=1;K8S_POD_NAME=a=b;".parse().unwrap();
        assert_eq!(args.get("K8S_POD_NAME"), Some("a=b"));
        assert_eq!(args.to_string(), "IgnoreUnknown=1;K8S_POD_NAME=a=b");
        assert!("x".parse::<Args>().is_err() && "=x".parse::<Args>().is_err());
        assert!(Args::new(vec![("A".into(), "b;C=d".into())]).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(pairs in proptest::collection::vec(("[A-Z_]{1,8}", "[^;\0]{0,8}"), 0..4)) {
            let args = Args::new(pairs).unwrap();
            prop_assert_eq!(args.to_string().parse::<Args>().unwrap(), args);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Args>();
            if let Ok(id) = text.parse::<ContainerId>() {
                prop_assert!(!id.as_str().contains('/') && id.as_str() != "..");
            }
        }
    }
}
