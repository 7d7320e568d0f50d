//! Inter-pod communication turned off (`network.icc: false`): who talks to whom all the same.
//!
//! A pod names others in an annotation; where two name each other, packets pass between them. The kernel's side is
//! `cni::isolation`: its table is made anew from what is known here whenever it is asserted.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use cni::isolation::{self, PAIRS};
use cni::netlink::NetlinkError;
use cni::nftables::{Element, Family, Nftables, Transaction};
use cri_api::v1::PodSandboxConfig;

use crate::model::PodId;

/// The annotation of a pod with the others it talks to where pods are kept apart: `namespace/name`, or `name` for one of its own
/// namespace, with commas between. They have to name it, too.
pub const TALKS_TO: &str = "io.berth.network/talks-to";

/// More names than any pod needs; each costs a look at each pod that starts.
const MOST_NAMES: usize = 256;

/// The annotation cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {TALKS_TO}: {0}")]
pub struct InvalidTalksTo(String);

/// A pod as others name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: String,
    name: String,
}

/// Who a pod is, and whom it talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    own: Name,
    talks_to: BTreeSet<Name>,
}

impl Party {
    /// What a pod's request says of it; none when it names nobody.
    ///
    /// # Errors
    /// When a name is empty or has more than two parts, or there are more than 256.
    pub fn of(config: &PodSandboxConfig) -> Result<Option<Self>, InvalidTalksTo> {
        let text = config.annotations.get(TALKS_TO).map_or("", String::as_str);
        let metadata = config.metadata.clone().unwrap_or_default();
        let own = Name { namespace: metadata.namespace, name: metadata.name };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let talks_to = names.map(|name| own.other(name)).collect::<Result<BTreeSet<_>, _>>()?;
        match talks_to.len() {
            0 => Ok(None),
            1..=MOST_NAMES => Ok(Some(Self { own, talks_to })),
            many => Err(InvalidTalksTo(format!("{many} names, and at most {MOST_NAMES} are taken"))),
        }
    }

    fn is_joined_to(&self, other: &Self) -> bool {
        self.talks_to.contains(&other.own) && other.talks_to.contains(&self.own)
    }
}

impl Name {
    /// Another pod by the text that names it.
    fn other(&self, text: &str) -> Result<Self, InvalidTalksTo> {
        let (namespace, name) = text.split_once('/').unwrap_or((&self.namespace, text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(InvalidTalksTo(format!("{text:?} is neither `name` nor `namespace/name`")));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }
}

/// A source and a destination.
type Pair = (IpAddr, IpAddr);

/// The pods that name others, with their addresses.
#[derive(Debug, Default)]
struct Parties(HashMap<PodId, (Party, Vec<IpAddr>)>);

impl Parties {
    /// The pairs between a pod and all that it is joined to, in both directions.
    fn pairs_of(&self, pod: &PodId) -> Vec<Pair> {
        let Some((party, addresses)) = self.0.get(pod) else { return Vec::new() };
        let joined = self.0.iter().filter(|(id, (other, _))| *id != pod && other.is_joined_to(party));
        let others = joined.flat_map(|(_, (_, addresses))| addresses);
        let pairs = others.flat_map(|other| addresses.iter().map(move |own| (*own, *other)));
        pairs.filter(|(own, other)| own.is_ipv4() == other.is_ipv4()).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    }

    fn all_pairs(&self) -> BTreeSet<Pair> {
        self.0.keys().flat_map(|pod| self.pairs_of(pod)).collect()
    }
}

/// The table of one bridge, and who is in it.
#[derive(Debug)]
pub(super) struct Isolation {
    /// Whether pods are kept apart. If not there is no table, and nobody is in it.
    on: bool,
    socket: Nftables,
    bridge: String,
    parties: Parties,
}

fn table_name(bridge: &str) -> String {
    format!("berth-isolation-{bridge}")
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Isolation {
    /// The kernel is told nothing yet.
    pub(super) fn new(bridge: &str, on: bool) -> Result<Self, NetlinkError> {
        Ok(Self { on, socket: Nftables::open()?, bridge: bridge.into(), parties: Parties::default() })
    }

    /// The netlink port that changes its table.
    pub(super) fn netlink_port(&self) -> Option<u32> {
        self.socket.port()
    }

    /// Makes the kernel's table be what is known here.
    pub(super) fn assert(&mut self) -> Result<(), NetlinkError> {
        let pairs = self.parties.all_pairs();
        let mut transaction = Transaction::default();
        for family in FAMILIES {
            let table = table_name(&self.bridge);
            if self.on {
                let elements = elements(family, pairs.iter());
                isolation::write_table(&mut transaction, family, &table, &self.bridge, &elements);
            } else {
                // An agent with other settings may have left one.
                transaction.add_table(family, &table);
                transaction.delete_table(family, &table);
            }
        }
        self.socket.commit(&transaction)
    }

    /// Lets a pod talk to those it is joined to. One that was admitted before is known by what it says now.
    pub(super) fn admit(&mut self, pod: &PodId, party: Party, addresses: Vec<IpAddr>) -> Result<(), NetlinkError> {
        if !self.on {
            return Ok(());
        }
        self.dismiss(pod)?;
        self.parties.0.insert(pod.clone(), (party, addresses));
        let pairs = self.parties.pairs_of(pod);
        let mut transaction = Transaction::default();
        for family in FAMILIES {
            transaction.add_elements(family, &table_name(&self.bridge), PAIRS, &elements(family, pairs.iter()));
        }
        // Somebody took the table away.
        let admitted = self.socket.commit(&transaction).or_else(|_| self.assert());
        admitted.inspect_err(|_| drop(self.parties.0.remove(pod)))
    }

    /// A pod talks to nobody any more; no error when it is not known.
    pub(super) fn dismiss(&mut self, pod: &PodId) -> Result<(), NetlinkError> {
        let pairs = self.parties.pairs_of(pod);
        self.parties.0.remove(pod);
        if pairs.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::default();
        for family in FAMILIES {
            let keys: Vec<_> = elements(family, pairs.iter()).into_iter().map(|element| element.key).collect();
            transaction.delete_elements(family, &table_name(&self.bridge), PAIRS, &keys);
        }
        self.socket.commit(&transaction).or_else(|_| self.assert())
    }
}

fn elements<'a>(family: Family, pairs: impl Iterator<Item = &'a Pair>) -> Vec<Element> {
    pairs.filter(|(from, _)| Family::of(*from) == family).map(|(from, to)| isolation::pair(*from, *to)).collect()
}

#[cfg(test)]
mod tests {
    use cri_api::v1::PodSandboxMetadata;

    use super::*;

    fn config(name: &str, talks_to: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: name.into(), namespace: "shop".into(), ..Default::default() };
        let annotations = [(TALKS_TO.to_owned(), talks_to.to_owned())].into();
        PodSandboxConfig { metadata: Some(metadata), annotations, ..Default::default() }
    }

    fn party(name: &str, talks_to: &str) -> Party {
        Party::of(&config(name, talks_to)).unwrap().unwrap()
    }

    #[test]
    fn both_have_to_name_the_other() {
        let web = party("web", "db, stock/cache");
        assert!(web.is_joined_to(&party("db", "web")) && web.is_joined_to(&party("db", "shop/web")));
        assert!(!web.is_joined_to(&party("db", "other/web")), "another namespace's");
        assert!(!web.is_joined_to(&party("cache", "web")), "it is not the one of namespace stock");
        assert!(!web.is_joined_to(&party("mail", "web")), "one side is not enough");
    }

    #[test]
    fn who_names_nobody_is_no_party() {
        for nobody in ["", " ", ",", " , "] {
            assert_eq!(Party::of(&config("web", nobody)), Ok(None));
        }
        assert_eq!(Party::of(&PodSandboxConfig::default()), Ok(None));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["/db", "shop/", "a/b/c", "db,/"] {
            assert!(Party::of(&config("web", bad)).unwrap_err().to_string().contains(TALKS_TO), "{bad:?}");
        }
        let many = (0..300).map(|number| format!("p{number}")).collect::<Vec<_>>().join(",");
        assert!(Party::of(&config("web", &many)).is_err());
    }

    #[test]
    fn pairs_are_of_one_family_and_both_directions() {
        let [web, db, lone] = [(); 3].map(|()| PodId::random().unwrap());
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mut parties = Parties::default();
        parties.0.insert(web.clone(), (party("web", "db"), ips(&["10.0.0.2", "fd00::2"])));
        parties.0.insert(db.clone(), (party("db", "web"), ips(&["10.0.0.3", "fd00::3"])));
        parties.0.insert(lone.clone(), (party("lone", "web"), ips(&["10.0.0.4"])));
        let pair = |a: &str, b: &str| (a.parse().unwrap(), b.parse().unwrap());
        let four = [
            pair("10.0.0.2", "10.0.0.3"),
            pair("10.0.0.3", "10.0.0.2"),
            pair("fd00::2", "fd00::3"),
            pair("fd00::3", "fd00::2"),
        ];
        assert_eq!(parties.all_pairs(), four.into());
        assert_eq!(parties.pairs_of(&db).into_iter().collect::<BTreeSet<_>>(), four.into());
        assert_eq!(parties.pairs_of(&lone), []);
    }
}
