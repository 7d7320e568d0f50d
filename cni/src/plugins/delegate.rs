//! The plugin that manages addresses, called by the one that needs them.

use serde_json::Value;

use super::request::Network;
use crate::call::{Call, RunError};
use crate::types::{AddResult, CniError, Code, Command};

/// The name in `ipam.type`; none: the network has no addresses.
fn kind<'a>(network: &'a Network<'_>) -> Option<&'a str> {
    network.config.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
}

/// Addresses for the target; none when the network has none.
pub(super) fn add(network: &Network<'_>) -> Result<Option<AddResult>, CniError> {
    let Some(kind) = kind(network) else { return Ok(None) };
    let output = run(network, kind, Command::Add)?;
    let value: Value = serde_json::from_slice(&output)
        .map_err(|error| CniError::of(Code::DECODING, &error).context(format!("answer of {kind}")))?;
    let result = AddResult::read(&value, network.version)
        .map_err(|error| CniError::of(Code::DECODING, &error).context(format!("answer of {kind}")))?;
    match result.ips.is_empty() {
        false => Ok(Some(result)),
        true => Err(CniError::config(format!("ipam: {kind} gave no address"))),
    }
}

/// Gives addresses back.
pub(super) fn del(network: &Network<'_>) -> Result<(), CniError> {
    pass_on(network, Command::Del)
}

/// Takes addresses back after `error`, which it returns.
pub(super) fn undo(network: &Network<'_>, error: CniError) -> CniError {
    match del(network) {
        Ok(()) => error,
        Err(undo) => {
            CniError { msg: format!("{}; and then giving back the addresses failed: {undo}", error.msg), ..error }
        }
    }
}

/// CHECK, GC and STATUS of the addresses.
pub(super) fn pass_on(network: &Network<'_>, command: Command) -> Result<(), CniError> {
    match kind(network) {
        Some(kind) => run(network, kind, command).map(drop),
        None => Ok(()),
    }
}

/// In this process when it is one of ours.
fn run(network: &Network<'_>, kind: &str, command: Command) -> Result<Vec<u8>, CniError> {
    let call = Call { command, ..network.call.clone() };
    if let Some(outcome) = super::run(kind, &call, network.others) {
        return outcome.map_err(|error| error.context(kind));
    }
    network.others.run(kind, &call).map_err(|error| match error {
        RunError::Failed { error, .. } => error.context(kind),
        other => CniError::of(Code::INTERNAL, &other),
    })
}
