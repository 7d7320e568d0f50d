//! The default file (`berth config default`) and docs/configuration.md, both made from the settings.

use std::fmt::Write;

use super::settings::Settings;
use super::values::{Entry, Shown, Yaml};

fn all() -> Vec<Entry> {
    match Settings::default().shown() {
        Shown::Section(entries) => entries,
        Shown::Value(_) | Shown::Named(_) => Vec::new(),
    }
}

/// Every key with its default and what it means, as a YAML file that changes nothing.
pub fn default_yaml() -> String {
    let mut out =
        String::from("# Berth's configuration. Every key may be left out; what stands here are the defaults.\n");
    write_section(&mut out, &all(), "");
    out
}

fn write_section(out: &mut String, entries: &[Entry], indent: &str) {
    for entry in entries {
        let section = matches!(entry.value, Shown::Section(_) | Shown::Named(_));
        if section || indent.is_empty() {
            out.push('\n');
        }
        for line in &entry.doc {
            let _ = writeln!(out, "{indent}# {line}");
        }
        match &entry.value {
            Shown::Value(value) => {
                let _ = writeln!(out, "{indent}{}: {value}", entry.key);
            }
            Shown::Section(entries) => {
                let _ = writeln!(out, "{indent}{}:", entry.key);
                write_section(out, entries, &format!("{indent}  "));
            }
            Shown::Named(entries) => {
                let _ = writeln!(out, "{indent}{}: {{}}\n{indent}#   NAME:", entry.key);
                write_section(out, entries, &format!("{indent}#     "));
            }
        }
    }
}

const INTRODUCTION: &str = "# Configuration

`berth serve` reads `/etc/berth/config.yaml` when it is there, or the file named by `--config`, which has to be. Every key
is optional. A key that does not exist is an error that names the file, the line and the column, so that a misspelt one
is not a silent default. Flags (`berth serve --help`) win over the file.

- `berth config default` prints this page's keys as a commented file that changes nothing: a place to start.
- `berth config check FILE` says whether a file would be accepted.

Times are written `500ms`, `30s`, `2m` or `1h`; sizes as bytes or `16KiB`, `10MiB`, `64GiB`. The configuration is read once;
restart the agent to change it. Pods run on meanwhile.

This page is made from the source: `UPDATE_DOCS=1 cargo test -p berth config::reference`.
";

/// docs/configuration.md.
pub fn reference_page() -> String {
    let mut out = INTRODUCTION.to_owned();
    let (sections, top): (Vec<_>, Vec<_>) =
        all().into_iter().partition(|entry| !matches!(entry.value, Shown::Value(_)));
    out.push_str("\n## Top level\n");
    write_table(&mut out, &top, "");
    for section in sections {
        let _ = writeln!(out, "\n## `{}`\n\n{}", section.key, section.doc.join(" "));
        match &section.value {
            Shown::Section(entries) => write_table(&mut out, entries, section.key),
            Shown::Named(entries) => write_table(&mut out, entries, &format!("{}.NAME", section.key)),
            Shown::Value(_) => {}
        }
    }
    out
}

fn write_table(out: &mut String, entries: &[Entry], section: &str) {
    let dot = if section.is_empty() { "" } else { "." };
    out.push_str("\n| key | default | meaning |\n| --- | --- | --- |\n");
    for entry in entries {
        if let Shown::Value(value) = &entry.value {
            let _ = writeln!(out, "| `{section}{dot}{}` | `{value}` | {} |", entry.key, entry.doc.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_changes_nothing() {
        assert_eq!(serde_saphyr::from_str::<Settings>(&default_yaml()).unwrap(), Settings::default());
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == reference_page(),
            "docs/configuration.md is not what the settings say; UPDATE_DOCS=1 remakes it"
        );
    }
}
