//! berth-monitor
fn main() {}
