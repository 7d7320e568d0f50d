//! OCI `blockIO` to the contents of cgroup files. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

use super::plan::{Write, write};

/// Weights, then throttles. Weights have several files, of which a kernel has those of its I/O schedulers: BFQ's come
/// first, as in runc and crun.
pub(super) fn block_io(io: &LinuxBlockIo, v2: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(io.weight().filter(|&weight| weight != 0).map(|weight| default_weight(weight, v2)));
    let devices = io.weight_device().iter().flatten();
    writes.extend(devices.filter_map(|device| device_weight(device, v2)));
    let throttles = [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ];
    for (list, v1_file, v2_key) in throttles {
        writes.extend(list.iter().flatten().map(|device| throttle(device, v1_file, v2_key, v2)));
    }
    writes
}

fn default_weight(weight: u16, v2: bool) -> Write {
    if v2 {
        let converted = io_weight(weight);
        write("io", "io.bfq.weight", format!("default {weight}")).or(write(
            "io",
            "io.weight",
            format!("default {converted}"),
        ))
    } else {
        write("io", "blkio.bfq.weight", weight).or(write("io", "blkio.weight", weight))
    }
}

fn device_weight(device: &LinuxWeightDevice, v2: bool) -> Option<Write> {
    let weight = device.weight().filter(|&weight| weight != 0)?;
    let number = format!("{}:{}", device.major(), device.minor());
    let own = format!("{number} {weight}");
    Some(if v2 {
        let converted = io_weight(weight);
        write("io", "io.bfq.weight", own).or(write("io", "io.weight", format!("{number} {converted}")))
    } else {
        write("io", "blkio.bfq.weight_device", own.clone()).or(write("io", "blkio.weight_device", own))
    })
}

/// 10–1000 to 1–10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

fn throttle(device: &LinuxThrottleDevice, v1_file: &str, v2_key: &str, v2: bool) -> Write {
    let (major, minor, rate) = (device.major(), device.minor(), device.rate());
    match (v2, rate) {
        (true, 0) => write("io", "io.max", format!("{major}:{minor} {v2_key}=max")),
        (true, rate) => write("io", "io.max", format!("{major}:{minor} {v2_key}={rate}")),
        (false, rate) => write("io", v1_file, format!("{major}:{minor} {rate}")),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder};

    use super::*;
    use crate::libcontainer::cgroup::limits::plan::Missing;

    /// Every file that is tried, in its order.
    fn lines(writes: &[Write]) -> Vec<String> {
        let of = |one: &Write| match &one.missing {
            Missing::Instead(other) => format!("{}={} | {}={}", one.file, one.value, other.file, other.value),
            _ => format!("{}={}", one.file, one.value),
        };
        writes.iter().map(of).collect()
    }

    #[test]
    fn io_limits_in_both_words() {
        let rate = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1000u64).build().unwrap();
        let weight = LinuxWeightDeviceBuilder::default().major(8).minor(16).weight(10u16).build().unwrap();
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(500)).set_throttle_read_bps_device(Some(vec![rate])).set_weight_device(Some(vec![weight]));
        assert_eq!(
            lines(&block_io(&io, false)),
            [
                "blkio.bfq.weight=500 | blkio.weight=500",
                "blkio.bfq.weight_device=8:16 10 | blkio.weight_device=8:16 10",
                "blkio.throttle.read_bps_device=8:0 1000",
            ]
        );
        assert_eq!(
            lines(&block_io(&io, true)),
            [
                "io.bfq.weight=default 500 | io.weight=default 4950",
                "io.bfq.weight=8:16 10 | io.weight=8:16 1",
                "io.max=8:0 rbps=1000",
            ]
        );
    }
}
