//! What a client is told at the end of exec and attach, as kubelet's clients read it (apimachinery's metav1.Status and
//! remotecommand, client-go's errorstream).

use serde_json::json;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The command's exit code.
    Exit(i32),
    /// The container that was attached to has ended.
    Ended,
    /// What to tell the client.
    Failed(String),
}

/// How the error stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusFormat {
    /// Before v4: a message if it failed, nothing otherwise.
    Text,
    /// v4 and v5: a metav1.Status.
    Json,
}

impl Outcome {
    /// What the error stream carries; empty: nothing.
    pub(super) fn write(&self, format: StatusFormat) -> String {
        let message = match self {
            Self::Exit(0) | Self::Ended => {
                return match format {
                    StatusFormat::Text => String::new(),
                    StatusFormat::Json => json!({ "metadata": {}, "status": "Success" }).to_string(),
                };
            }
            Self::Exit(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        };
        if format == StatusFormat::Text {
            return message;
        }
        match self {
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": { "causes": [{ "message": why }] },
                "code": 500,
            }),
            Self::Ended => json!({}),
        }
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_exit_code_where_they_look_for_it() {
        let status: serde_json::Value = serde_json::from_str(&Outcome::Exit(7).write(StatusFormat::Json)).unwrap();
        assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
        let status: serde_json::Value =
            serde_json::from_str(&Outcome::Failed("no \"sh\"".into()).write(StatusFormat::Json)).unwrap();
        assert_eq!((&status["reason"], &status["code"]), (&json!("InternalError"), &json!(500)));
        assert_eq!(Outcome::Exit(0).write(StatusFormat::Json), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(Outcome::Ended.write(StatusFormat::Json), Outcome::Exit(0).write(StatusFormat::Json));
    }

    #[test]
    fn older_clients_get_words_or_nothing() {
        assert_eq!(Outcome::Exit(0).write(StatusFormat::Text), "");
        assert!(Outcome::Exit(3).write(StatusFormat::Text).ends_with("exit status 3"));
        assert!(Outcome::Failed("gone".into()).write(StatusFormat::Text).ends_with("gone"));
    }
}
