//! Who reads a runtime's log: an engine by its file, or a person by standard error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::Error;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `level: message`.
    #[default]
    Text,
    /// An object with `level`, `msg` and `time`, as engines read it.
    Json,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The verb went on.
    Warning,
    /// The verb failed.
    Error,
}

/// Where lines go.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
}

impl Log {
    /// Appends to a file; without one it is standard error.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: Option<&Path>, format: LogFormat) -> Result<Self, Error> {
        let open = |path| OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("open", path));
        Ok(Self { file: file.map(open).transpose()?, format })
    }

    /// Writes a line. That it cannot be written is nobody's business.
    pub fn line(&self, level: Level, message: &str) {
        let line = line(self.format, level, message);
        match &self.file {
            Some(file) => drop((&*file).write_all(line.as_bytes())),
            None => drop(std::io::stderr().write_all(line.as_bytes())),
        }
        if level == Level::Error && self.file.is_some() {
            drop(writeln!(std::io::stderr(), "berth: {message}"));
        }
    }

    pub(super) fn warn(&self, message: &str) {
        self.line(Level::Warning, message);
    }
}

fn line(format: LogFormat, level: Level, message: &str) -> String {
    let name = match level {
        Level::Warning => "warning",
        Level::Error => "error",
    };
    match format {
        LogFormat::Text => format!("berth: {name}: {message}\n"),
        LogFormat::Json => {
            let time = jiff::Timestamp::now().to_string();
            format!("{}\n", serde_json::json!({ "level": name, "msg": message, "time": time }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_is_one_whatever_the_message() {
        let text = line(LogFormat::Json, Level::Error, "a \"b\"\nc");
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["level"].as_str(), value["msg"].as_str()), (Some("error"), Some("a \"b\"\nc")));
    }
}
