//! The client against plugins that others could have written: small shell scripts that note how they were called. No
//! privileges are needed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod support;
mod verbs;
