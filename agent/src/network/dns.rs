//! resolv.conf, hosts and hostname of a pod. Pure but for [`host_resolv_conf`].
//!
//! What goes into a file comes from the pod's author and is not trusted: an entry that could forge a line is refused.

use std::fmt::Write;
use std::net::IpAddr;

use cri_api::v1::DnsConfig;

/// When the host's file names only itself. The ones other runtimes use.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// sysctl kernel.hostname holds this many bytes (HOST_NAME_MAX).
const HOSTNAME_MAX: usize = 64;

/// An entry that cannot stand in its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} {reason}")]
pub struct DnsError {
    /// The CRI's name of the field.
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A pod's resolv.conf: the host's when nothing is asked for, empty when nothing is what is asked for. `host` is the text
/// of [`host_resolv_conf`].
///
/// # Errors
/// When a server is no address, or a search domain or an option is empty or has white space in it.
pub fn resolv_conf(config: Option<&DnsConfig>, host: &str) -> Result<String, DnsError> {
    let Some(config) = config else { return Ok(without_loopback(host)) };
    for server in &config.servers {
        check_word("dns_config.servers", server)?;
        if address_of(server).is_none() {
            return Err(refused("dns_config.servers", server, "is no IP address"));
        }
    }
    config.searches.iter().try_for_each(|search| check_word("dns_config.searches", search))?;
    config.options.iter().try_for_each(|option| check_word("dns_config.options", option))?;

    let mut text = String::new();
    if !config.searches.is_empty() {
        let _ = writeln!(text, "search {}", config.searches.join(" "));
    }
    for server in &config.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !config.options.is_empty() {
        let _ = writeln!(text, "options {}", config.options.join(" "));
    }
    Ok(text)
}

/// The host's file as a pod can use it: a resolver on the host's loopback is not on the pod's.
fn without_loopback(host: &str) -> String {
    let (mut text, mut servers) = (String::new(), 0);
    for line in host.lines() {
        match nameserver(line) {
            Some(server) if is_loopback(server) => continue,
            Some(_) => servers += 1,
            None => {}
        }
        text.push_str(line);
        text.push('\n');
    }
    if servers == 0 {
        for server in PUBLIC_RESOLVERS {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    text
}

/// The host's resolv.conf; where systemd-resolved put only itself into it, the file with its upstream servers. Empty when
/// there is none.
pub fn host_resolv_conf() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let own = read("/etc/resolv.conf").unwrap_or_default();
    let mut servers = own.lines().filter_map(nameserver).peekable();
    match servers.peek().is_some() && servers.all(is_loopback) {
        true => read("/run/systemd/resolve/resolv.conf").unwrap_or(own),
        false => own,
    }
}

/// A pod's /etc/hosts: itself by its name. kubelet puts a file of its own over it.
///
/// # Errors
/// When the hostname cannot stand in a line.
pub fn hosts(addresses: &[IpAddr], hostname: &str) -> Result<String, DnsError> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        check_hostname(hostname)?;
        for address in addresses {
            let _ = writeln!(text, "{address}\t{hostname}");
        }
    }
    Ok(text)
}

/// A pod's /etc/hostname.
///
/// # Errors
/// When it is longer than the kernel's (64 bytes) or cannot stand in a line.
pub fn hostname(hostname: &str) -> Result<String, DnsError> {
    if hostname.is_empty() {
        return Ok(String::new());
    }
    check_hostname(hostname)?;
    Ok(format!("{hostname}\n"))
}

fn check_hostname(hostname: &str) -> Result<(), DnsError> {
    check_word("hostname", hostname)?;
    match hostname.len() <= HOSTNAME_MAX {
        true => Ok(()),
        false => Err(refused("hostname", hostname, "is longer than 64 bytes")),
    }
}

/// One word of one line: the resolver splits at white space, and takes what follows `#` or `;` for a remark.
fn check_word(field: &'static str, value: &str) -> Result<(), DnsError> {
    if value.is_empty() {
        return Err(refused(field, value, "is empty"));
    }
    if value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(refused(field, value, "has white space or control characters"));
    }
    if value.starts_with(['#', ';']) {
        return Err(refused(field, value, "would be a remark"));
    }
    Ok(())
}

fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next()? == "nameserver").then(|| words.next()).flatten()
}

fn is_loopback(server: &str) -> bool {
    address_of(server).is_some_and(|address| match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    })
}

/// Link-local IPv6 resolvers come with a zone: `fe80::1%eth0`.
fn address_of(server: &str) -> Option<IpAddr> {
    server.split('%').next()?.parse().ok()
}

fn refused(field: &'static str, value: &str, reason: &'static str) -> DnsError {
    DnsError { field, value: value.chars().take(100).collect(), reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        DnsConfig { servers: owned(servers), searches: owned(searches), options: owned(options) }
    }

    #[test]
    fn servers_searches_and_options_stand_in_their_lines() {
        let config = config(&["10.96.0.10", "fd00::a"], &["default.svc.cluster.local", "local"], &["ndots:5", "edns0"]);
        assert_eq!(
            resolv_conf(Some(&config), "nameserver 1.1.1.1\n").unwrap(),
            "search default.svc.cluster.local local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n"
        );
    }

    #[test]
    fn an_empty_config_is_an_empty_file() {
        assert_eq!(resolv_conf(Some(&DnsConfig::default()), "nameserver 1.1.1.1\n").unwrap(), "");
    }

    #[test]
    fn no_config_is_the_hosts_without_its_loopback() {
        let host = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 9.9.9.9\noptions edns0";
        assert_eq!(
            resolv_conf(None, host).unwrap(),
            "# made by hand\nsearch example.org\nnameserver 9.9.9.9\noptions edns0\n"
        );
    }

    #[test]
    fn a_host_with_only_loopback_resolvers_gives_public_ones() {
        for host in ["", "nameserver 127.0.0.1\n", "nameserver\t::1\nnameserver ::ffff:127.0.0.1"] {
            assert_eq!(resolv_conf(None, host).unwrap(), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n", "{host:?}");
        }
    }

    #[test]
    fn entries_that_forge_a_line_are_refused() {
        let bad = [
            config(&["1.1.1.1\nnameserver 6.6.6.6"], &[], &[]),
            config(&["resolver.example"], &[], &[]),
            config(&[], &["a b"], &[]),
            config(&[], &["a\nnameserver 6.6.6.6"], &[]),
            config(&[], &[""], &[]),
            config(&[], &[], &["ndots:5\r"]),
            config(&[], &[], &["# x"]),
        ];
        for config in bad {
            assert!(resolv_conf(Some(&config), "").is_err(), "{config:?}");
        }
        assert!(hosts(&[], "a\n6.6.6.6 bank.example").is_err());
        assert!(hostname("a b").is_err());
        assert!(hostname(&"a".repeat(65)).is_err());
    }

    #[test]
    fn a_pod_finds_itself_and_localhost() {
        let text = hosts(&["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()], "web-0").unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.2\tweb-0\nfd00::2\tweb-0\n"));
        assert_eq!(hostname("web-0").unwrap(), "web-0\n");
        assert_eq!(hostname("").unwrap(), "");
        assert!(!hosts(&[], "").unwrap().contains("web-0"));
    }

    proptest! {
        #[test]
        fn every_line_of_the_result_was_asked_for(
            servers in proptest::collection::vec("[0-9a-f.:%\\s#]{0,12}", 0..3),
            searches in proptest::collection::vec("\\PC{0,8}|[a-z\n\r\t .]{0,8}", 0..3),
        ) {
            let config = DnsConfig { servers: servers.clone(), searches: searches.clone(), options: vec![] };
            if let Ok(text) = resolv_conf(Some(&config), "") {
                let expected = servers.len() + usize::from(!searches.is_empty());
                prop_assert_eq!(text.lines().count(), expected);
                let found: Vec<_> = text.lines().filter_map(nameserver).collect();
                prop_assert_eq!(found, servers);
            }
        }
    }
}
