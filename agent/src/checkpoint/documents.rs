//! The archive's documents, in the words of those who read them elsewhere: `config.dump` and `spec.dump` as CRI-O and containerd
//! have them, and `descriptors.json`, in which runc notes what standard input and output were. Pure but for `stdio_of`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `config.dump`: who it was, and what image it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The container's id.
    pub id: String,
    /// Its name, as the client gave it.
    pub name: String,
    /// The image as the client named it.
    pub rootfs_image: String,
    /// The image's id: the digest of its configuration.
    pub rootfs_image_ref: String,
    /// The image as the client named it; other runtimes tell here the whole name.
    pub rootfs_image_name: String,
    /// Which runtime.
    pub runtime: String,
    /// RFC 3339.
    pub created_time: String,
    /// RFC 3339.
    pub checkpointed_time: String,
}

/// The document of a pod's archive.
pub const POD_OPTIONS: &str = "pod.options";

/// `pod.options`: what a pod's archive has in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodOptions {
    /// Of the format: 1.
    pub version: u32,
    /// Names of containers, and their ids, by which their archives are called.
    pub containers: BTreeMap<String, String>,
    /// Who it was.
    pub annotations: BTreeMap<String, String>,
}

/// What `spec.dump` is made of.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// argv.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// User, group.
    pub user: (u32, u32),
    /// The pod's host name.
    pub hostname: String,
    /// The request's mounts: host path and container path.
    pub mounts: Vec<(String, String)>,
    /// Its cgroup.
    pub cgroup: String,
    /// By which tools find the container's and the pod's names.
    pub annotations: BTreeMap<String, String>,
}

impl Spec {
    /// An OCI runtime specification, as far as somebody reads it who looks into an archive.
    pub fn document(&self) -> Value {
        let mount = |(source, destination): &(String, String)| json!({"source": source, "destination": destination, "type": "bind"});
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": self.args, "env": self.env, "cwd": self.cwd,
                "user": {"uid": self.user.0, "gid": self.user.1},
            },
            "root": {"path": "rootfs"},
            "hostname": self.hostname,
            "mounts": self.mounts.iter().map(mount).collect::<Vec<_>>(),
            "annotations": self.annotations,
            "linux": {"cgroupsPath": self.cgroup},
        })
    }
}

/// What fds 0, 1 and 2 of a process lead to: "/dev/null", "pipe:[4026]"; empty for one that is closed.
pub fn stdio_of(pid: i32) -> [String; 3] {
    [0, 1, 2].map(|fd| {
        let link = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("fd").join(fd.to_string()));
        link.map_or_else(|_| String::new(), |link| link.to_string_lossy().into_owned())
    })
}

/// Which of fds 0, 1 and 2 are taken over from whoever is there before, and what they were, by `descriptors.json` among the
/// images. Pipes alone: what else they may have been criu opens by its path in the container.
pub fn read_stdio(images: &Path) -> Vec<(u32, String)> {
    let text = std::fs::read(images.join("descriptors.json")).unwrap_or_default();
    let stdio: Vec<String> = serde_json::from_slice(&text).unwrap_or_default();
    (0..3).zip(stdio).filter(|(_, link)| is_pipe(link)).collect()
}

/// "pipe:[4026]"
fn is_pipe(link: &str) -> bool {
    let number = link.strip_prefix("pipe:[").and_then(|rest| rest.strip_suffix(']'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("descriptors.json"), text).unwrap();
        write(r#"["/dev/null","pipe:[12]","pipe:[34]","pipe:[56]"]"#);
        assert_eq!(read_stdio(dir.path()), [(1, "pipe:[12]".to_owned()), (2, "pipe:[34]".to_owned())]);
        for hostile in [r#"["pipe:[]"]"#, r#"["pipe:[1]:x"]"#, r#"["pipe:[1 2]"]"#, "{}", "no json"] {
            write(hostile);
            assert_eq!(read_stdio(dir.path()), [], "{hostile}");
        }
        assert_eq!(read_stdio(Path::new("/nonexistent")), []);
    }

    #[test]
    fn a_config_has_the_names_that_others_read() {
        let config = Config { id: "c".into(), rootfs_image_ref: "sha256:1".into(), ..Config::default() };
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!((&value["id"], &value["rootfsImageRef"]), (&json!("c"), &json!("sha256:1")));
        assert!(value.get("checkpointedTime").is_some() && value.get("rootfsImageName").is_some());
        // Another runtime's has more, and less.
        let other: Config =
            serde_json::from_str(r#"{"id": "x", "restored": false, "rootfsImageName": "a/b"}"#).unwrap();
        assert_eq!((other.id.as_str(), other.rootfs_image_name.as_str()), ("x", "a/b"));
    }

    #[test]
    fn stdio_is_told_as_the_kernel_does() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let expected = std::fs::read_link("/proc/self/fd/2").unwrap().to_string_lossy().into_owned();
        assert_eq!(stdio_of(pid)[2], expected);
        assert_eq!(stdio_of(-1), [""; 3]);
    }
}
