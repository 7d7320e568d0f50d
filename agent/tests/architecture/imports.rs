//! What a source file imports: every `crate::…`, `super::…` and extern path, in `use` trees and in code. It reads
//! words, not Rust; the proofs in architecture.rs say what it can tell apart.

/// The paths that `text`, the module `module`, names; each begins with `crate` or with an extern crate's name.
pub(crate) fn imports(module: &[String], text: &str) -> Vec<Vec<String>> {
    let code = without_tests(&strip(text));
    let words = words(&code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let starts = words.get(at + 1) == Some(&"::") && (at == 0 || words[at - 1] != "::");
        if starts && is_name(words[at]) {
            at = tree(&words, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found.into_iter().filter_map(|path| resolve(module, path)).collect()
}

/// Reads one path with its braces; returns the place after it.
fn tree(words: &[&str], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    while at < words.len() {
        match words[at] {
            "::" => at += 1,
            "{" if words.get(at.wrapping_sub(1)) == Some(&"::") => {
                at += 1;
                while at < words.len() && words[at] != "}" {
                    at = match words[at] {
                        "," => at + 1,
                        _ => tree(words, at, &path, found),
                    };
                }
                return at + 1;
            }
            word if is_name(word) && (path.len() == before.len() || words[at - 1] == "::") => {
                path.push(word.to_owned());
                at += 1;
            }
            // `as name`, `*`, or what follows a path in code.
            "as" => at += 2,
            _ => break,
        }
    }
    let stuck = path.len() == before.len();
    if !stuck {
        found.push(path);
    }
    if stuck { at + 1 } else { at }
}

/// `super` and `self` made into a path from `crate`.
fn resolve(module: &[String], path: Vec<String>) -> Option<Vec<String>> {
    let first = path.first()?;
    let ups = path.iter().take_while(|part| *part == "super").count();
    if ups > 0 || first == "self" {
        let keep = module.len().checked_sub(ups)?;
        let rest = path.iter().skip(ups.max(1));
        return Some(
            std::iter::once("crate".to_owned()).chain(module[..keep].iter().cloned()).chain(rest.cloned()).collect(),
        );
    }
    Some(path)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_') && word != "as"
}

fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_alphanumeric() || c == '_' => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

/// Without comments and without what stands in quotes.
pub(crate) fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_char(rest) {
            quoted(rest, '\'')
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[skip..];
    }
    out
}

/// The number of `#` of a raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?;
    let count = hashes.chars().take_while(|c| *c == '#').count();
    hashes[count..].starts_with('"').then_some(count)
}

/// A character, not a lifetime.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Tests may look anywhere: an inline module under `#[cfg(test)]` is left out.
fn without_tests(code: &str) -> String {
    let Some(at) = code.find("#[cfg(test)]") else { return code.to_owned() };
    let (before, after) = code.split_at(at);
    let body = after.find('{').filter(|brace| !after[..*brace].contains(';'));
    let rest = match body {
        None => after["#[cfg(test)]".len()..].to_owned(),
        Some(open) => {
            let mut depth = 0;
            let close = after[open..].char_indices().find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            });
            close.map_or(String::new(), |(close, _)| after[open + close + 1..].to_owned())
        }
    };
    format!("{before}{}", without_tests(&rest))
}
