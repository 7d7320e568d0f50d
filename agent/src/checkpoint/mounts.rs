//! The mounts of a container as criu is to see them. Its root is remade from the image and the archive's difference, procfs
//! belongs to its process ids, and devpts to its terminals: these criu remakes. All others (volumes, the pod's files, masks,
//! /dev, /sys) are called external: whoever restores has them ready, as the new container's own settings say. Pure.

use super::CheckpointError;

/// What criu remakes itself, with everything that is bound from it.
const REMADE: [&str; 2] = ["proc", "devpts"];

/// Where the external mounts are, in the order of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).
///
/// # Errors
/// `Unsupported` for a mount point that cannot be told to criu.
pub fn external(mountinfo: &str) -> Result<Vec<String>, CheckpointError> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((place, fstype)) = parse(line) else { continue };
        if place == "/" || REMADE.contains(&fstype) {
            continue;
        }
        let place = unescape(place).filter(|place| !place.contains(['[', ']', ':', '\n'])).ok_or(
            CheckpointError::Unsupported {
                what: "a container with such a mount point",
                reason: "criu's options cannot tell a path with a bracket, a colon or a line's end",
            },
        )?;
        // The one on top hides the others, and is the one that a path leads to.
        if !found.contains(&place) {
            found.push(place);
        }
    }
    Ok(found)
}

/// The mount point, escaped, and the type of file system.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    Some((before.split(' ').nth(4)?, after.split(' ').next()?))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'\\', [a, b, c, after @ ..]) => {
                let digits = [*a, *b, *c];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()?);
                rest = after;
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_root_proc_and_terminals_is_external() {
        let mountinfo = "\
            113 124 0:50 / / rw,relatime - overlay overlay rw\n\
            115 113 0:27 /pods/x/hosts /etc/hosts rw,relatime - tmpfs tmpfs rw\n\
            125 113 0:52 / /proc rw,nosuid - proc proc rw\n\
            128 125 0:43 /null /proc/keys rw,nosuid - tmpfs tmpfs ro\n\
            148 125 0:52 /sys /proc/sys ro,nosuid - proc proc rw\n\
            126 113 0:53 / /dev rw,nosuid - tmpfs tmpfs rw\n\
            130 126 0:54 / /dev/pts rw,nosuid master:1 - devpts devpts rw\n\
            160 113 8:1 /v /my\\040data rw - ext4 /dev/sda1 rw\n\
            161 113 8:1 /w /my\\040data rw - ext4 /dev/sda1 rw\n";
        assert_eq!(external(mountinfo).unwrap(), ["/etc/hosts", "/proc/keys", "/dev", "/my data"]);
    }

    #[test]
    fn a_path_that_would_be_another_option_is_refused() {
        for place in ["/a]:/b", "/a:b", "/a\\012b", "/a\\999"] {
            let line = format!("160 113 8:1 /v {place} rw - ext4 /dev/sda1 rw");
            assert!(external(&line).is_err(), "{place}");
        }
        assert_eq!(external("no mountinfo at all").unwrap(), Vec::<String>::new());
    }
}
