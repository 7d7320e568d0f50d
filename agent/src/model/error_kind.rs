//! What kind of failure an error is, for whoever must react to it without reading its text.

/// The kinds a CRI client tells apart; the `cri` face maps each to one gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong: a field is missing, malformed or contradicts another.
    InvalidArgument,
    /// A named object is not there.
    NotFound,
    /// A name or object of that identity is there already.
    AlreadyExists,
    /// The object is there but not in a state that allows this.
    FailedPrecondition,
    /// Time ran out; nothing is left half made.
    DeadlineExceeded,
    /// Something outside (a registry, a monitor) cannot be reached now; a retry may succeed.
    Unavailable,
    /// Disk, memory, addresses or ids are used up.
    ResourceExhausted,
    /// The other side knows the caller and refuses.
    PermissionDenied,
    /// The other side wants credentials.
    Unauthenticated,
    /// What came from outside is broken or hostile: a digest that does not match, an archive that climbs out.
    Corrupt,
    /// The caller or the agent gave up before the end.
    Cancelled,
    /// Not built, or not possible on this machine.
    Unimplemented,
    /// Everything that should not happen: a failed system call, a broken invariant.
    Internal,
}
