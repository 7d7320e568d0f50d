//! Who is who in a pod's user namespace (user_namespaces(7)).

use prost::Message;

/// The ids of a pod in a user namespace of its own. It crosses the monitor's socket.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UserNamespace {
    /// What its user ids are on the host.
    #[prost(message, required, tag = "1")]
    pub uids: IdRange,
    /// What its group ids are on the host.
    #[prost(message, required, tag = "2")]
    pub gids: IdRange,
}

/// Ids on the host that 0, 1, 2 … inside stand for. No id inside is without one but for those from `count` on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IdRange {
    /// What 0 inside is on the host.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// How many there are.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

impl IdRange {
    /// What an id inside is on the host; `None` for one that is not mapped.
    pub fn on_host(&self, inside: u32) -> Option<u32> {
        if inside < self.count { self.first.checked_add(inside) } else { None }
    }

    /// The content of /proc/<pid>/uid_map and gid_map.
    pub fn map_line(&self) -> String {
        format!("0 {} {}\n", self.first, self.count)
    }

    /// Whether some id of the host is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |range: &Self| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_the_range_are_nobody() {
        let range = IdRange { first: 100_000, count: 65_536 };
        assert_eq!(range.on_host(0), Some(100_000));
        assert_eq!(range.on_host(65_535), Some(165_535));
        assert_eq!(range.on_host(65_536), None);
        assert_eq!(IdRange { first: u32::MAX, count: 2 }.on_host(1), None);
        assert_eq!(range.map_line(), "0 100000 65536\n");
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let range = |first, count| IdRange { first, count };
        assert!(range(0, 10).overlaps(&range(9, 1)));
        assert!(!range(0, 10).overlaps(&range(10, 1)));
        assert!(range(5, 1).overlaps(&range(0, 10)));
        assert!(range(u32::MAX - 1, 1).overlaps(&range(u32::MAX - 2, 2)));
    }
}
