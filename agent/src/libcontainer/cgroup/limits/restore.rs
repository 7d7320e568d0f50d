//! What has to be written for a file to hold again what it held. Pure.

/// Takes back the writing of `value` into a file that held `old`. Most files hold one value. Some hold a line for each
/// device, of which a write changes one (cgroup-v2.rst, "Flat keyed", "Nested keyed").
pub(super) fn restore(file: &str, old: &str, value: &str) -> String {
    let key = value.split_whitespace().next().unwrap_or_default();
    let line_of = |key: &str| old.lines().find(|line| line.split_whitespace().next() == Some(key));
    let several = old.trim().lines().nth(1).is_some();
    let line = match line_of(key) {
        Some(line) => line.trim().to_owned(),
        None if is_device(key) => unlimited(file, key, value),
        // `oom_kill_disable N`, then what is only told.
        None if file == "memory.oom_control" => {
            old.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or("0").to_owned()
        }
        None if several => line_of("default").unwrap_or(old).trim().to_owned(),
        None => old.trim().to_owned(),
    };
    // A write of no bytes is none.
    if line.is_empty() { "\n".to_owned() } else { line }
}

/// `MAJOR:MINOR`.
fn is_device(key: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    key.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// A device without a line has no limit, which each file has its own word for.
fn unlimited(file: &str, device: &str, value: &str) -> String {
    let keys: Vec<String> =
        value.split_whitespace().filter_map(|word| Some(format!("{}=max", word.split_once('=')?.0))).collect();
    match keys.is_empty() {
        false => format!("{device} {}", keys.join(" ")),
        true if file.starts_with("blkio.throttle.") || file == "blkio.weight_device" => format!("{device} 0"),
        true => format!("{device} default"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_file_gets_its_own_content_back() {
        for (file, old, value, back) in [
            ("cpu.shares", "1024\n", "512", "1024"),
            ("cpu.max", "max 100000\n", "5000 10000", "max 100000"),
            ("memory.max", "max\n", "5", "max"),
            ("cpuset.cpus", "\n", "0", "\n"),
            ("cpuset.cpus", "0-1\n", "0", "0-1"),
            (
                "io.max",
                "8:0 rbps=9 wbps=max riops=max wiops=max\n8:16 rbps=1\n",
                "8:0 rbps=5",
                "8:0 rbps=9 wbps=max riops=max wiops=max",
            ),
            ("io.max", "8:16 rbps=1 wbps=max\n", "8:0 rbps=5 wiops=7", "8:0 rbps=max wiops=max"),
            ("io.max", "", "8:0 rbps=5", "8:0 rbps=max"),
            ("io.weight", "default 100\n8:0 50\n", "default 7", "default 100"),
            ("io.weight", "default 100\n", "8:0 7", "8:0 default"),
            ("io.bfq.weight", "default 100\n8:0 50\n", "7", "default 100"),
            ("blkio.bfq.weight_device", "8:0 50\n", "8:0 7", "8:0 50"),
            ("blkio.throttle.read_bps_device", "", "8:0 7", "8:0 0"),
            ("blkio.throttle.read_bps_device", "8:0 5\n8:16 6\n", "8:16 7", "8:16 6"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "1", "0"),
            ("misc.max", "a max\nb 5\n", "b 7", "b 5"),
        ] {
            assert_eq!(restore(file, old, value), back, "{file}: {old:?} after {value:?}");
        }
    }
}
