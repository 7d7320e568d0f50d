//! File names with wildcards, as the operator's file writes them: `*`, `?` and `[a-z]` within one part of a path.

use std::path::PathBuf;

/// The paths that match and are there, in their order.
pub(super) fn expand(pattern: &str) -> Vec<PathBuf> {
    if !pattern.starts_with('/') {
        return Vec::new();
    }
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        paths = paths.into_iter().flat_map(|path| below(path, part)).collect();
    }
    paths.retain(|path| path.exists());
    paths
}

fn below(path: PathBuf, part: &str) -> Vec<PathBuf> {
    if !part.contains(['*', '?', '[']) {
        return vec![path.join(part)];
    }
    let Ok(entries) = std::fs::read_dir(&path) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let pattern: Vec<char> = part.chars().collect();
    let mut found: Vec<PathBuf> =
        names.filter(|name| matches(&pattern, &name.chars().collect::<Vec<_>>())).map(|name| path.join(name)).collect();
    found.sort();
    found
}

/// Goes back to the last `*` alone, so that no pattern takes more than its length times the name's.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut last_star = None;
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                last_star = Some((at + 1, read));
                at += 1;
                continue;
            }
            Some(_) => {
                if let Some(length) = one(&pattern[at..], name[read]) {
                    (at, read) = (at + length, read + 1);
                    continue;
                }
            }
            None => {}
        }
        let Some((after, from)) = last_star else { return false };
        last_star = Some((after, from + 1));
        (at, read) = (after, from + 1);
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// How long the beginning of the pattern is that stands for this character; `None` if it does not.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => {
            let end = rest.iter().skip(1).position(|&c| c == ']')? + 1;
            let (set, negated) = match &rest[..end] {
                ['^' | '!', set @ ..] => (set, true),
                set => (set, false),
            };
            (in_set(set, c) != negated).then_some(end + 2)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

fn in_set(mut set: &[char], c: char) -> bool {
    loop {
        set = match set {
            [first, '-', last, rest @ ..] => {
                if (*first..=*last).contains(&c) {
                    return true;
                }
                rest
            }
            [one, rest @ ..] => {
                if *one == c {
                    return true;
                }
                rest
            }
            [] => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_match(pattern: &str, name: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
    }

    #[test]
    fn wildcards_stand_for_what_they_say() {
        for (pattern, name) in [
            ("sd[a-z]", "sda"),
            ("*SSD*", "ata-SSD-1"),
            ("*", ""),
            ("a?c", "abc"),
            ("[^a]", "b"),
            ("a*b*c", "axxbxbxc"),
            ("[]]", "]"),
        ] {
            assert!(is_match(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("sd[a-z]", "sda1"),
            ("sd[a-z]", "sd"),
            ("a?c", "ac"),
            ("[^a]", "a"),
            ("a*b", "abc"),
            ("[a", "a"),
            ("[", "["),
            ("", "a"),
        ] {
            assert!(!is_match(pattern, name), "{pattern} {name}");
        }
        assert!(!is_match(&"*a".repeat(500), &"a".repeat(499)));
    }

    #[test]
    fn files_that_are_there_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sda", "sdb", "sdb1", "vda"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let pattern = format!("{}/sd[a-z]", dir.path().display());
        assert_eq!(expand(&pattern), [dir.path().join("sda"), dir.path().join("sdb")]);
        assert!(expand(&format!("{}/none", dir.path().display())).is_empty() && expand("relative").is_empty());
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_its_beginning_with_a_star(name in "[a-z0-9.-]{0,12}", cut in 0usize..12) {
            prop_assert!(is_match(&name, &name));
            let beginning = format!("{}*", &name[..cut.min(name.len())]);
            prop_assert!(is_match(&beginning, &name));
        }

        #[test]
        fn no_pattern_panics(pattern in "[*?\\[\\]^a-c-]{0,12}", name in "[a-c\\]-]{0,8}") {
            let _ = is_match(&pattern, &name);
        }
    }
}
