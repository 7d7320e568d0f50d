//! fstab-style mount options (OCI runtime-spec, mounts; mount(8)) as bits of mount_setattr(2).

use super::{Attributes, Propagation};

/// MOUNT_ATTR_RDONLY.
pub(super) const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME_MASK: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// A mount's options, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// For the mount itself.
    pub(super) attributes: Attributes,
    /// For it and all below.
    pub(super) recursive_attributes: Attributes,
    /// `rbind`.
    pub(super) recursive: bool,
    pub(super) propagation: Propagation,
    /// What is left: the file system's own.
    pub(super) rest: Vec<String>,
}

impl Options {
    pub(super) fn parse(list: &[String]) -> Self {
        let mut options = Self::default();
        for option in list {
            options.take(option);
        }
        options
    }

    fn take(&mut self, option: &str) {
        let on = |attributes: &mut Attributes, bit: u64| {
            attributes.set |= bit;
            attributes.clear &= !bit;
        };
        let off = |attributes: &mut Attributes, bit: u64| {
            attributes.set &= !bit;
            attributes.clear |= bit;
        };
        let own = &mut self.attributes;
        match option {
            "bind" | "defaults" | "async" => {}
            "rbind" => self.recursive = true,
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::HostToContainer,
            "shared" | "rshared" => self.propagation = Propagation::Bidirectional,
            "unbindable" | "runbindable" => self.propagation = Propagation::Unbindable,
            // What the source forbids stays forbidden: `rw` is the absence of `ro`, not its opposite.
            "rw" => own.set &= !RDONLY,
            "ro" => own.set |= RDONLY,
            "rro" => on(&mut self.recursive_attributes, RDONLY),
            "rrw" => off(&mut self.recursive_attributes, RDONLY),
            "rnosuid" => on(&mut self.recursive_attributes, NOSUID),
            "rnodev" => on(&mut self.recursive_attributes, NODEV),
            "rnoexec" => on(&mut self.recursive_attributes, NOEXEC),
            "rnosymfollow" => on(&mut self.recursive_attributes, NOSYMFOLLOW),
            "rsuid" => off(&mut self.recursive_attributes, NOSUID),
            "rdev" => off(&mut self.recursive_attributes, NODEV),
            "rexec" => off(&mut self.recursive_attributes, NOEXEC),
            "rsymfollow" => off(&mut self.recursive_attributes, NOSYMFOLLOW),
            "nosuid" => on(own, NOSUID),
            "nodev" => on(own, NODEV),
            "noexec" => on(own, NOEXEC),
            "nodiratime" => on(own, NODIRATIME),
            "nosymfollow" => on(own, NOSYMFOLLOW),
            "suid" => off(own, NOSUID),
            "dev" => off(own, NODEV),
            "exec" => off(own, NOEXEC),
            "symfollow" => off(own, NOSYMFOLLOW),
            "diratime" => off(own, NODIRATIME),
            "noatime" => self.atime(NOATIME),
            "strictatime" => self.atime(STRICTATIME),
            "relatime" => self.atime(0),
            other => self.rest.push(other.to_owned()),
        }
    }

    /// The access time modes are one field of the bits, which mount_setattr(2) wants cleared as a whole.
    fn atime(&mut self, mode: u64) {
        self.attributes.set = self.attributes.set & !ATIME_MASK | mode;
        self.attributes.clear |= ATIME_MASK;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn later_options_win() {
        assert_eq!(parse(&["ro", "rw"]).attributes.set, 0);
        assert_eq!(parse(&["noexec", "exec"]).attributes, Attributes { set: 0, clear: NOEXEC });
        let options = parse(&["strictatime", "noatime", "nosuid", "rbind", "rslave", "size=1k"]);
        assert_eq!(options.attributes, Attributes { set: NOATIME | NOSUID, clear: ATIME_MASK });
        assert!(options.recursive);
        assert_eq!(options.propagation, Propagation::HostToContainer);
        assert_eq!(options.rest, ["size=1k"]);
    }

    #[test]
    fn only_rro_goes_below() {
        assert_eq!(parse(&["rbind", "ro"]).recursive_attributes, Attributes::default());
        assert_eq!(parse(&["rbind", "rro"]).recursive_attributes.set, RDONLY);
    }
}
