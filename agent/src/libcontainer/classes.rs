//! Which class of block I/O or of cache and memory bandwidth (RDT) a container is in, by the annotations that containerd and CRI-O know. Pure.

use std::collections::HashMap;

/// What is shared out by classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Block I/O weights and throttles.
    BlockIo,
    /// Cache and memory bandwidth.
    Rdt,
}

impl Kind {
    /// The container's own annotation, which only the CRI's client sets.
    fn of_container(self) -> &'static str {
        match self {
            Self::BlockIo => "io.kubernetes.cri.blockio-class",
            Self::Rdt => "io.kubernetes.cri.rdt-class",
        }
    }

    /// What the pod's annotations begin with: `pod` for all its containers, `container.NAME` for one.
    fn of_pod(self) -> &'static str {
        match self {
            Self::BlockIo => "blockio.resources.beta.kubernetes.io/",
            Self::Rdt => "rdt.resources.beta.kubernetes.io/",
        }
    }
}

/// The class of a container named `name`, if it is in one: the nearest annotation counts, and an empty one is none.
pub fn class<'a>(
    kind: Kind,
    name: &str,
    container: &'a HashMap<String, String>,
    pod: &'a HashMap<String, String>,
) -> Option<&'a str> {
    let prefix = kind.of_pod();
    let by_name = || pod.get(&format!("{prefix}container.{name}"));
    let by_pod = || pod.get(&format!("{prefix}pod"));
    let class = container.get(kind.of_container()).or_else(by_name).or_else(by_pod)?;
    Some(class.as_str()).filter(|class| !class.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_annotation_counts() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect::<HashMap<_, _>>()
        };
        let pod = map(&[
            ("rdt.resources.beta.kubernetes.io/pod", "silver"),
            ("rdt.resources.beta.kubernetes.io/container.web", "gold"),
            ("blockio.resources.beta.kubernetes.io/pod", "slow"),
        ]);
        let none = HashMap::new();
        assert_eq!(class(Kind::Rdt, "web", &none, &pod), Some("gold"));
        assert_eq!(class(Kind::Rdt, "db", &none, &pod), Some("silver"));
        assert_eq!(class(Kind::BlockIo, "web", &none, &pod), Some("slow"));
        assert_eq!(class(Kind::Rdt, "web", &none, &none), None);
        let own = map(&[("io.kubernetes.cri.rdt-class", "bronze"), ("io.kubernetes.cri.blockio-class", "")]);
        assert_eq!(class(Kind::Rdt, "web", &own, &pod), Some("bronze"));
        assert_eq!(class(Kind::BlockIo, "web", &own, &pod), None);
    }
}
