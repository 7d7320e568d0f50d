//! The file `exit` in a container's folder: the monitor writes it before it tells anybody, so that an agent that was dead
//! meanwhile finds it even if the monitor is gone by then.

use serde::Deserialize;

use super::ExitRecord;

/// Its name.
pub const NAME: &str = "exit";
/// What it is called until it is whole.
pub const TEMPORARY: &str = "exit.tmp";
const VERSION: u32 = 1;

/// The file's text.
pub fn encode(record: &ExitRecord) -> String {
    let ExitRecord { exit_code, signal, oom_killed, finished_at_ns, started_at_ns } = record;
    format!(
        "{{\"version\":{VERSION},\"exit_code\":{exit_code},\"signal\":{signal},\"oom_killed\":{oom_killed},\
         \"started_at_ns\":{started_at_ns},\"finished_at_ns\":{finished_at_ns}}}\n"
    )
}

/// Reads the file's text.
///
/// # Errors
/// It is not whole, or of a version that this agent does not know.
pub fn decode(text: &[u8]) -> Result<ExitRecord, serde_json::Error> {
    #[derive(Deserialize)]
    struct File {
        version: u32,
        exit_code: i32,
        signal: i32,
        oom_killed: bool,
        started_at_ns: i64,
        finished_at_ns: i64,
    }
    let File { version, exit_code, signal, oom_killed, started_at_ns, finished_at_ns } = serde_json::from_slice(text)?;
    if version != VERSION {
        return Err(serde::de::Error::custom(format!("version {version} of the exit record is unknown")));
    }
    Ok(ExitRecord { exit_code, signal, oom_killed, finished_at_ns, started_at_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let record =
            ExitRecord { exit_code: 137, signal: 9, oom_killed: true, finished_at_ns: i64::MAX, started_at_ns: 1 };
        assert_eq!(decode(encode(&record).as_bytes()).unwrap(), record);
        assert!(decode(b"{\"version\":2}").is_err());
        assert!(decode(b"{\"version\":1,\"exit_code\":0").is_err());
    }
}
