//! See the list of modules one level up.
