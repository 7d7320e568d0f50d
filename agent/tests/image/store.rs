//! The store over time.
