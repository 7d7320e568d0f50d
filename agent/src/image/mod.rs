//! See the crate's list of modules.
