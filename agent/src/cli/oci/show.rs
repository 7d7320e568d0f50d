//! What the verbs of `berth oci` print, and the config.json that `spec` writes.

use std::fs;
use std::io;
use std::path::Path;

use super::ListFormat;
use crate::oci::{Error, SPEC_VERSION};

/// Prints, and is done.
pub(super) fn shown(text: &str) -> i32 {
    println!("{text}");
    0
}

pub(super) fn list(states: &[serde_json::Value], quiet: bool, format: ListFormat) -> String {
    let field = |state: &serde_json::Value, name: &str| match &state[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if quiet {
        return states.iter().map(|state| field(state, "id")).collect::<Vec<_>>().join("\n");
    }
    if format == ListFormat::Json {
        return serde_json::Value::from(states.to_vec()).to_string();
    }
    let row = |state: &serde_json::Value| {
        let [id, pid, status, bundle] = ["id", "pid", "status", "bundle"].map(|name| field(state, name));
        format!("{id:<36} {pid:>8} {status:<8} {bundle}")
    };
    let header = format!("{:<36} {:>8} {:<8} {}", "ID", "PID", "STATUS", "BUNDLE");
    std::iter::once(header).chain(states.iter().map(row)).collect::<Vec<_>>().join("\n")
}

pub(super) fn processes(ids: &[i32], format: ListFormat) -> String {
    match format {
        ListFormat::Json => serde_json::Value::from(ids.to_vec()).to_string(),
        ListFormat::Table => {
            std::iter::once("PID".to_owned()).chain(ids.iter().map(i32::to_string)).collect::<Vec<_>>().join("\n")
        }
    }
}

/// A container with a shell, the usual namespaces and mounts, and nothing that the host does not let everybody have.
pub(super) fn write_spec(bundle: &Path) -> Result<(), Error> {
    let path = bundle.join("config.json");
    let mut spec = ::oci_spec::runtime::Spec::default();
    spec.set_version(SPEC_VERSION.to_owned());
    let json = |source| Error::Json { path: path.clone(), source };
    let text = serde_json::to_string_pretty(&spec).map_err(json)?;
    let file = fs::File::create_new(&path).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    file.map_err(|source| Error::Io { op: "write", path, source })
}
