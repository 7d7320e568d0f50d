//! Platforms: which image of an index the host runs, in containerd's order of preference. Pure but for the host's facts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and processor (image-spec, image-index.md § platform).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl Platform {
    /// The machine this runs on, in Go's names.
    pub(crate) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", amd64_level()),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// How well `offered` suits this host: 0 is best, `None` is not at all.
    pub(crate) fn rank(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os {
            return None;
        }
        let level = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        // Within one architecture: the highest level the host has, then the lower ones; "" is the architecture's default.
        let within = |default: u32, host: u32| {
            let offered = if offered.variant.is_empty() { Some(default) } else { level(&offered.variant) };
            offered.filter(|n| *n <= host).map(|n| host - n)
        };
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64" | "x86_64") => within(1, level(&self.variant).unwrap_or(1)),
            ("arm64", "arm64" | "aarch64") => within(8, level(&self.variant).unwrap_or(8)),
            ("arm", "arm") => within(7, level(&self.variant).unwrap_or(7)),
            // A 64-bit kernel runs these too, mostly.
            ("amd64", "386") => Some(100),
            ("arm64", "arm") => within(7, 8).map(|n| 100 + n),
            (host, other) if host == other => Some(u32::from(self.variant != offered.variant)),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// The x86-64 psABI's micro-architecture level, as far as images are built for one.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma")
    {
        "v3"
    } else if std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt") {
        "v2"
    } else {
        ""
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
        }
    }

    /// The offers, best first, without those that do not run.
    fn order<'a>(host: &str, offers: &[&'a str]) -> Vec<&'a str> {
        let host = platform(host);
        let mut ranked: Vec<_> = offers.iter().filter_map(|o| host.rank(&platform(o)).map(|rank| (rank, *o))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, o)| o).collect()
    }

    #[test]
    fn higher_levels_first_but_none_above_the_host() {
        let offers =
            ["linux/386", "linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4", "windows/amd64"];
        assert_eq!(order("linux/amd64/v3", &offers), ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]);
        assert_eq!(order("linux/amd64", &offers), ["linux/amd64", "linux/386"]);
    }

    #[test]
    fn arm_goes_down_to_v5_and_never_guesses() {
        let offers = ["linux/arm/v5", "linux/arm/v7", "linux/arm64", "linux/arm64/v9", "linux/arm/x"];
        assert_eq!(order("linux/arm64/v8", &offers), ["linux/arm64", "linux/arm/v7", "linux/arm/v5"]);
    }

    #[test]
    fn other_architectures_match_by_name() {
        assert_eq!(order("linux/s390x", &["linux/amd64", "linux/s390x", "unknown/unknown"]), ["linux/s390x"]);
    }
}
