//! Classes of block I/O: weights and throttles under a name, from a file in the format of containerd and CRI-O (goresctrl):
//!
//! ```yaml
//! Classes:
//!   slow:
//!   - Weight: 80
//!   - Devices: ["/dev/sd[a-z]", /dev/disk/by-id/*SSD*]
//!     ThrottleReadBps: 50M
//! ```

/// File names with wildcards.
mod glob;
/// `50M`.
mod quantity;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder};
use serde::Deserialize;

use quantity::Quantity;

/// A class that a container cannot be in.
#[derive(Debug, thiserror::Error)]
pub enum BlockIoError {
    /// The agent knows of no classes.
    #[error("block I/O class {class:?}: there are no classes; `blockio.config` names a file with them")]
    NoClasses {
        /// As requested.
        class: String,
    },
    /// The file has no such class.
    #[error("block I/O class {class:?} is not in {}", path.display())]
    NoClass {
        /// As requested.
        class: String,
        /// The file.
        path: PathBuf,
    },
    /// The file.
    #[error("block I/O classes: {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a class means on this host.
#[derive(Debug, Default, PartialEq)]
pub struct Class {
    /// For the `Spec`.
    pub limits: LinuxBlockIo,
    /// Devices of the file that are not there or cannot be limited; the class goes without them.
    pub passed_over: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "Classes", default)]
    classes: HashMap<String, Vec<Parameters>>,
}

/// Parameters for some devices, or the weight for those not named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
struct Parameters {
    devices: Option<Vec<String>>,
    throttle_read_bps: Option<Quantity>,
    throttle_write_bps: Option<Quantity>,
    #[serde(rename = "ThrottleReadIOPS")]
    throttle_read_iops: Option<Quantity>,
    #[serde(rename = "ThrottleWriteIOPS")]
    throttle_write_iops: Option<Quantity>,
    weight: Option<Quantity>,
}

/// By device; a later entry of the file replaces an earlier one.
#[derive(Default)]
struct Table {
    weight: Option<u16>,
    weights: BTreeMap<(i64, i64), u16>,
    /// Read bytes, write bytes, reads, writes; each a second.
    rates: [BTreeMap<(i64, i64), u64>; 4],
}

/// Looks a class up in the file, which is read anew each time, with the devices that are there now.
///
/// # Errors
/// `BlockIoError`: no file, no such class, or a file that is wrong.
pub fn class(path: Option<&Path>, name: &str) -> Result<Class, BlockIoError> {
    let Some(path) = path else { return Err(BlockIoError::NoClasses { class: name.to_owned() }) };
    let wrong = |reason: String| BlockIoError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    match find(&text, name, &disks).map_err(wrong)? {
        Some(class) => Ok(class),
        None => Err(BlockIoError::NoClass { class: name.to_owned(), path: path.to_owned() }),
    }
}

/// What the wildcards of a device list find: numbers of disks, and what is none.
type Found = (Vec<(i64, i64)>, Vec<String>);

fn find(text: &str, name: &str, disks: &dyn Fn(&[String]) -> Found) -> Result<Option<Class>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
    let Some(list) = file.classes.get(name) else { return Ok(None) };
    let (mut table, mut passed_over) = (Table::default(), Vec::new());
    for parameters in list {
        let weight = parameters.weight.as_ref().map(Quantity::weight).transpose()?;
        let rates = [
            &parameters.throttle_read_bps,
            &parameters.throttle_write_bps,
            &parameters.throttle_read_iops,
            &parameters.throttle_write_iops,
        ]
        .map(|rate| rate.as_ref().map(|rate| rate.value()));
        let Some(devices) = &parameters.devices else {
            if rates.iter().any(Option::is_some) {
                return Err(format!("class {name:?} throttles without saying which Devices"));
            }
            table.weight = weight.or(table.weight);
            continue;
        };
        let (numbers, others) = disks(devices);
        passed_over.extend(others);
        for number in numbers {
            table.weights.extend(weight.map(|weight| (number, weight)));
            table.rates.iter_mut().zip(rates).for_each(|(all, rate)| all.extend(rate.map(|rate| (number, rate))));
        }
    }
    Ok(Some(Class { limits: table.limits()?, passed_over }))
}

impl Table {
    fn limits(self) -> Result<LinuxBlockIo, String> {
        let weight = |((major, minor), weight): ((i64, i64), u16)| {
            LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build()
        };
        let rate = |((major, minor), rate): ((i64, i64), u64)| {
            LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate).build()
        };
        let weights = self.weights.into_iter().map(weight).collect::<Result<Vec<_>, _>>();
        let mut limits = LinuxBlockIo::default();
        limits.set_weight(self.weight).set_weight_device(Some(weights.map_err(|error| error.to_string())?));
        let mut lists = Vec::new();
        for rates in self.rates {
            let list = rates.into_iter().map(rate).collect::<Result<Vec<_>, _>>();
            lists.push(list.map_err(|error| error.to_string())?);
        }
        let mut next = lists.into_iter();
        limits
            .set_throttle_read_bps_device(next.next())
            .set_throttle_write_bps_device(next.next())
            .set_throttle_read_iops_device(next.next())
            .set_throttle_write_iops_device(next.next());
        Ok(limits)
    }
}

/// Whole disks: the kernel limits no partitions.
fn disks(wildcards: &[String]) -> Found {
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    for wildcard in wildcards {
        let paths = glob::expand(wildcard);
        if paths.is_empty() {
            others.push(format!("{wildcard}: no such device"));
        }
        for path in paths {
            match disk(&path) {
                Ok(number) => numbers.push(number),
                Err(reason) => others.push(format!("{}: {reason}", path.display())),
            }
        }
    }
    (numbers, others)
}

fn disk(path: &Path) -> Result<(i64, i64), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.file_type().is_block_device() {
        return Err("it is no block device".to_owned());
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    if Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
        return Err("it is a partition, and only whole disks can be limited".to_owned());
    }
    Ok((major.into(), minor.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "Classes:
  slow:
  - Weight: 80
  - Devices: [/dev/sda, /dev/sdb]
    ThrottleReadBps: 50M
    ThrottleWriteBps: 10Mi
    ThrottleReadIOPS: 10k
    ThrottleWriteIOPS: \"5k\"
    Weight: 50
  - Devices: [/dev/sdb]
    ThrottleReadBps: 100M
  fast:
  - Weight: 400
  empty: []
";

    fn fake(wildcards: &[String]) -> Found {
        let number = |path: &String| match path.as_str() {
            "/dev/sda" => Some((8, 0)),
            "/dev/sdb" => Some((8, 16)),
            _ => None,
        };
        (wildcards.iter().filter_map(number).collect(), Vec::new())
    }

    #[test]
    fn a_class_is_what_its_entries_say_the_last_word_first() {
        let slow = find(FILE, "slow", &fake).unwrap().unwrap().limits;
        assert_eq!(slow.weight(), Some(80));
        let weights = slow.weight_device().as_ref().unwrap();
        assert_eq!(
            weights.iter().map(|one| (one.minor(), one.weight())).collect::<Vec<_>>(),
            [(0, Some(50)), (16, Some(50))]
        );
        let rates = |list: &Option<Vec<oci_spec::runtime::LinuxThrottleDevice>>| {
            list.as_ref().unwrap().iter().map(|one| (one.minor(), one.rate())).collect::<Vec<_>>()
        };
        assert_eq!(rates(slow.throttle_read_bps_device()), [(0, 50_000_000), (16, 100_000_000)]);
        assert_eq!(rates(slow.throttle_write_bps_device()), [(0, 10 << 20), (16, 10 << 20)]);
        assert_eq!(rates(slow.throttle_read_iops_device()), [(0, 10_000), (16, 10_000)]);
        assert_eq!(rates(slow.throttle_write_iops_device()), [(0, 5_000), (16, 5_000)]);
        assert_eq!(find(FILE, "fast", &fake).unwrap().unwrap().limits.weight(), Some(400));
        assert_eq!(find(FILE, "empty", &fake).unwrap().unwrap().limits.weight(), None);
        assert_eq!(find(FILE, "none", &fake).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (from, to, told) in [
            ("Weight: 80", "Weight: 8", "10 to 1000"),
            ("50M", "50Q", "50Q"),
            ("Devices: [/dev/sda, /dev/sdb]", "", "without saying which Devices"),
            ("ThrottleReadIOPS", "ThrottleRead", "unknown field"),
        ] {
            let error = find(&FILE.replacen(from, to, 1), "slow", &fake).unwrap_err();
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn devices_that_are_none_are_passed_over() {
        let (numbers, others) = disks(&["/dev/null".to_owned(), "/dev/none-[a-z]".to_owned()]);
        assert_eq!((numbers.len(), others.len()), (0, 2), "{others:?}");
        assert!(matches!(class(None, "x"), Err(BlockIoError::NoClasses { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_or_an_error(at in 0usize..FILE.len(), junk in "\\PC{0,8}") {
            let mut text = FILE.to_owned();
            text.insert_str(at, &junk);
            let _ = find(&text, "slow", &fake);
        }
    }
}
