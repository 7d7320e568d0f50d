//! Which sysctls a pod may set: those that the kernel keeps per network or IPC namespace, and no others.

/// A sysctl that a pod may not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linux.sysctls: {key:?} {reason}")]
pub struct SysctlError {
    /// As requested.
    pub key: String,
    /// Why not.
    pub reason: &'static str,
}

/// IPC namespace sysctls (ipc/ipc_sysctl.c, ipc/mq_sysctl.c).
const IPC: [&str; 13] = [
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg_next_id",
    "kernel.auto_msgmni",
    "fs.mqueue.",
];

/// Checks one of `LinuxPodSandboxConfig.sysctls` against the pod's namespaces, and gives its path below /proc/sys.
///
/// `/` is a separator as well as `.`: `net/ipv4/conf/eth0.100/forwarding` (sysctl(8)). CVE-2022-0811: a value is written
/// as it is and to one file only, a key can name no file outside its own tree.
///
/// # Errors
/// `SysctlError`: not namespaced, belongs to a namespace that the pod shares with the host or another pod, or not a plain key.
pub fn check(key: &str, value: &str, others_network: bool, host_ipc: bool) -> Result<String, SysctlError> {
    let refuse = |reason| Err(SysctlError { key: key.chars().take(128).collect(), reason });
    let slashes = key.find('/').is_some_and(|slash| key.find('.').is_none_or(|dot| slash < dot));
    let swapped = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    let dotted = if slashes { swapped(key) } else { key.to_owned() };
    let path = if slashes { key.to_owned() } else { swapped(key) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-' | b':' | b'@');
    if key.is_empty() || key.len() > 256 || !key.bytes().all(plain) {
        return refuse("is empty, too long, or has characters that no sysctl has");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part.contains("..")) {
        return refuse("has an empty part or one of dots");
    }
    if value.contains(['\0', '\n']) || value.len() > 4096 {
        return refuse("has a value of more than one line");
    }
    if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        return refuse("is set by the pod's hostname field");
    }
    if dotted.starts_with("net.") {
        return if others_network { refuse("belongs to a network that is not the pod's own") } else { Ok(path) };
    }
    let ipc = IPC
        .iter()
        .any(|&name| dotted == name || (name.ends_with('.') && dotted.len() > name.len() && dotted.starts_with(name)));
    match (ipc, host_ipc) {
        (true, true) => refuse("belongs to the host's IPC namespace, which the pod uses"),
        (true, false) => Ok(path),
        (false, _) => refuse("is not namespaced: it would change the whole node"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn namespaced_keys_pass() {
        let cases = [
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("net.ipv4.ip_local_port_range", "net/ipv4/ip_local_port_range"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ];
        for (key, path) in cases {
            assert_eq!(check(key, "1", false, false).as_deref(), Ok(path));
        }
    }

    #[test]
    fn a_namespace_shared_with_the_host_is_not_the_pods() {
        assert!(check("net.core.somaxconn", "1", true, false).is_err());
        assert!(check("kernel.sem", "1", true, false).is_ok());
        assert!(check("kernel.sem", "1", false, true).is_err());
        assert!(check("net.core.somaxconn", "1", false, true).is_ok());
    }

    #[test]
    fn the_nodes_own_and_tricks_are_refused() {
        for key in [
            "kernel.core_pattern",
            "kernel.hostname",
            "kernel.domainname",
            "vm.swappiness",
            "fs.mqueue.",
            "fs.mqueue",
            "kernel.shmmaxx",
            "",
            "net",
            "net.",
            "net..x",
            "net/../kernel/core_pattern",
            "net.//kernel/core_pattern",
            "kernel.shm_rmid_forced=1+kernel.core_pattern",
            "net.ipv4.ip_forward\nkernel",
            "../kernel/sem",
            "/kernel/sem",
            "net.ipv4.%s",
        ] {
            assert!(check(key, "1", false, false).is_err(), "{key}");
        }
        assert!(check("kernel.sem", "1\n2", false, false).is_err());
    }

    proptest! {
        #[test]
        fn what_passes_names_one_file_in_a_namespaced_tree(key in "(net|kernel|fs|vm)?[a-z./_%+ -]{0,24}") {
            if let Ok(path) = check(&key, "1", false, false) {
                prop_assert!(path.starts_with("net/") || path.starts_with("kernel/") || path.starts_with("fs/mqueue/"));
                prop_assert!(path.split('/').all(|part| !part.is_empty() && part != ".."));
            }
        }
    }
}
