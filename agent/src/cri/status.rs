//! Error kinds to gRPC codes: the only place that knows both.

use tonic::{Code, Status};

use crate::model::ErrorKind;
use crate::ops;

/// A message travels in a header; clients refuse a long one (8 KiB is grpc-core's limit for all headers together).
const LONGEST: usize = 6 << 10;

/// What kubelet makes a pod's reason when the error of a pull begins with it. It looks at the text with the code in front unless the
/// code is Unknown, so these have no other (`pullImageV1` of cri-client, `evalCRIPullErr` of kubelet).
const REASONS_OF_PULLS: [&str; 2] = ["RegistryUnavailable: ", "SignatureValidationFailed: "];

/// The code of a kind.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The answer to a verb that failed: its kind's code and its whole chain of causes.
pub(super) fn failed(error: &ops::Error) -> Status {
    let message = cut(ops::chain(error));
    let named = REASONS_OF_PULLS.iter().any(|reason| message.starts_with(reason));
    Status::new(if named { Code::Unknown } else { code(error.kind()) }, message)
}

/// The answer to a request whose `field` has to be set and is not.
pub(super) fn missing(field: &'static str) -> Status {
    Status::invalid_argument(format!("{field}: must be set"))
}

fn cut(mut message: String) -> String {
    if message.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageError;

    #[test]
    fn a_message_is_cut_where_headers_end() {
        let long = cut("ä".repeat(100_000));
        assert!(long.len() < 8 << 10 && long.ends_with("ä…"));
        assert_eq!(cut("short".to_owned()), "short");
    }

    #[test]
    fn what_kubelet_knows_by_name_has_no_code() {
        let (what, registry, detail) = ("busybox".to_owned(), "docker.io".to_owned(), "refused".to_owned());
        let absent = ImageError::RegistryUnavailable { what: what.clone(), registry, detail };
        let unsigned = ImageError::Signature { what, reason: "no signature".into() };
        for error in [absent, unsigned] {
            let status = failed(&ops::Error::Image(error));
            assert_eq!(status.code(), Code::Unknown, "{status:?}");
        }
    }

    #[test]
    fn an_absent_object_is_not_found() {
        let status = failed(&ops::Error::NoSuchPod("abc".into()));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "pod sandbox \"abc\" does not exist"));
    }
}
