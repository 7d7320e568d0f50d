//! What several plugins want of one container, put together in their order. What one has set no other may set, unless it
//! takes it away first; who wanted what is known. Pure.

/// A container that is being made.
mod creation;
/// Who wants what.
mod owners;
/// Limits.
mod resources;
#[cfg(test)]
mod tests;
/// Changes of containers that are there.
mod updates;

pub(super) use creation::Creation;
pub(super) use updates::Updates;

/// What plugins want and cannot have together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Two plugins set the same thing.
    #[error("the plugins {first} and {second} both set {what} of container {container}")]
    Conflict {
        /// Who came first.
        first: String,
        /// Who came later.
        second: String,
        /// What, with its key.
        what: String,
        /// Of which container.
        container: String,
    },
    /// The container is not there yet: it is adjusted, not updated.
    #[error("the plugin {plugin} asks for an update of container {container}, which is being created")]
    Premature {
        /// Which plugin.
        plugin: String,
        /// Which container.
        container: String,
    },
}
