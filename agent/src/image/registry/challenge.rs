//! `WWW-Authenticate` (RFC 9110 § 11.6.1): what a registry wants to see. Pure, and fed by strangers.

/// One way to authenticate that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header value, as far as it can be understood; never fails, because there may be others.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (token, after) = split_token(rest);
        if token.is_empty() {
            return challenges;
        }
        let value = after.trim_start_matches([' ', '\t']);
        // `name=value` belongs to the challenge before it; a lone token starts a new one.
        match (value.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) if !value.starts_with('=') => {
                let Some((value, after)) = split_value(value.trim_start_matches([' ', '\t'])) else {
                    return challenges;
                };
                challenge.parameters.push((token.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), _) => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: token.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn split_token(text: &str) -> (&str, &str) {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !token(c)).unwrap_or(text.len()))
}

/// A token, or a quoted string with its quoting undone.
fn split_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Scopes and realms come unquoted from some servers: up to the next comma.
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_bearer_challenge() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let challenges = parse(header);
        assert_eq!(challenges.len(), 1);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenges[0].parameter("scope"), Some("repository:a/b:pull,push"));
    }

    #[test]
    fn several_in_one_header_and_odd_spacing() {
        let challenges = parse(r#"Negotiate, BASIC realm = "a \"b\"" , Bearer Realm=https://x/t , service=s"#);
        let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(challenges[1].parameter("realm"), Some("a \"b\""));
        assert_eq!(challenges[2].parameter("realm"), Some("https://x/t"));
        assert_eq!(challenges[2].parameter("service"), Some("s"));
    }

    #[test]
    fn what_makes_no_sense_ends_it() {
        assert!(parse("").is_empty());
        assert!(parse("realm=\"x\"").is_empty());
        assert_eq!(parse("Bearer realm=\"never closed").len(), 1);
        assert_eq!(parse("Bearer realm=\"a\\").len(), 1);
    }

    proptest! {
        #[test]
        fn any_header_ends_without_panic(header in ".{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn any_quoted_value_comes_back(value in "[ -~]{0,60}", service in "[a-z]{1,9}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\",service=\"{service}\""));
            prop_assert_eq!(challenges.len(), 1);
            prop_assert_eq!(challenges[0].parameter("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].parameter("service"), Some(service.as_str()));
        }
    }
}
