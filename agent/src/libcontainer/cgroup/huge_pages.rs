//! Huge pages that a cgroup uses: read for metrics only.

use std::sync::OnceLock;

use super::stats::{Files, value};

/// The use of huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// As the kernel's files name it: `2MB`.
    pub size: String,
    /// Bytes in use.
    pub used: u64,
    /// The most that were, in bytes; `None` where the kernel does not keep it (v2).
    pub most: Option<u64>,
    /// How often the limit was met.
    pub failures: u64,
}

/// Of each size that this host has and the cgroup counts.
pub(super) fn read(files: &mut Files<'_>) -> Vec<HugePages> {
    // What the host can have is settled when it boots.
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    let sizes = SIZES.get_or_init(|| {
        let folders = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut sizes: Vec<_> = folders.filter_map(|folder| size(folder.file_name().to_str()?)).collect();
        sizes.sort_unstable();
        sizes
    });
    sizes.iter().filter_map(|size| of_size(files, size)).collect()
}

/// With the names of v2, or else of v1: a hybrid host can have them in either.
fn of_size(files: &mut Files<'_>, size: &str) -> Option<HugePages> {
    let mut number = |file: &str| files.number(&format!("hugetlb.{size}.{file}")).ok().flatten();
    if let Some(used) = number("current") {
        let events = files.read(&format!("hugetlb.{size}.events"));
        let failures = events.map_or(0, |text| value(text, "max"));
        return Some(HugePages { size: size.to_owned(), used, most: None, failures });
    }
    let (used, most) = (number("usage_in_bytes")?, number("max_usage_in_bytes"));
    Some(HugePages { size: size.to_owned(), used, most, failures: number("failcnt").unwrap_or(0) })
}

/// `hugepages-2048kB` is `2MB` to cgroups (the kernel's mem_fmt()).
fn size(folder: &str) -> Option<String> {
    let kib: u64 = folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        0x10_0000.. => format!("{}GB", kib >> 20),
        0x400.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_cgroups_name_them() {
        let names = ["hugepages-64kB", "hugepages-2048kB", "hugepages-32768kB", "hugepages-1048576kB", "x"].map(size);
        assert_eq!(
            names.each_ref().map(Option::as_deref),
            [Some("64KB"), Some("2MB"), Some("32MB"), Some("1GB"), None]
        );
    }
}
