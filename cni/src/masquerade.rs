//! What leaves a pod network gets the host's address.
//!
//! One table of nftables an address family. Of each subnet it has a set of pods and a rule: what such a pod sends to
//! anything outside its subnet, and that is no multicast, is masqueraded. A pod costs one element, whose comment names its
//! owner, so that it can be found again by the owner alone.

use ipnet::IpNet;

use crate::netlink::NetlinkError;
use crate::nftables::{
    Element, Expression as E, Family, Field, Hook, Nftables, Register, SetType, Transaction, octets,
};

/// The table; its name says who made it.
const TABLE: &str = "berth_cni_masquerade";

/// Masquerades what `address` sends out of its subnet.
///
/// # Errors
/// When the kernel refuses.
pub fn add(socket: &mut Nftables, address: IpNet, owner: &str) -> Result<(), NetlinkError> {
    let family = Family::of(address.addr());
    let names = Names::of(address);
    let element = Element { key: octets(address.addr()), comment: Some(owner.into()), ..Element::default() };
    let mut transaction = Transaction::default();
    transaction.add_new_elements(family, TABLE, &names.set, std::slice::from_ref(&element));
    match socket.commit(&transaction) {
        // The first pod of its subnet, or somebody took the table away; or the address was another's, who was never taken
        // away, and whose end must not be the end of ours.
        Err(error) if error.not_found() || error.already_exists() => {}
        other => return other,
    }
    let mut transaction = Transaction::default();
    transaction.add_table(family, TABLE);
    transaction.add_set(family, TABLE, &names.set, SetType::addresses(family));
    transaction.add_chain(family, TABLE, &names.chain, Hook::NatPostrouting);
    // Two may come here at once: the rule is there once all the same.
    transaction.flush_chain(family, TABLE, &names.chain);
    transaction.add_rule(family, TABLE, &names.chain, &rule(family, &names.set, address));
    transaction.replace_elements(family, TABLE, &names.set, &[element]);
    socket.commit(&transaction)
}

/// The same for several addresses, in one message when their subnets are known already.
///
/// # Errors
/// When the kernel refuses.
pub fn add_all(socket: &mut Nftables, addresses: &[IpNet], owner: &str) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::default();
    for address in addresses {
        let element = Element { key: octets(address.addr()), comment: Some(owner.into()), ..Element::default() };
        transaction.add_new_elements(Family::of(address.addr()), TABLE, &Names::of(*address).set, &[element]);
    }
    match socket.commit(&transaction) {
        // See there.
        Err(error) if error.not_found() || error.already_exists() => {
            addresses.iter().try_for_each(|address| add(socket, *address, owner))
        }
        other => other,
    }
}

/// Takes addresses away that are known, in one message, however many others there are. False when one is not the owner's: then he may
/// have others.
///
/// # Errors
/// When the kernel refuses.
pub fn take(socket: &mut Nftables, addresses: &[IpNet], owner: &str) -> Result<bool, NetlinkError> {
    let (mut transaction, mut all) = (Transaction::default(), !addresses.is_empty());
    for address in addresses {
        let (family, set, key) = (Family::of(address.addr()), Names::of(*address).set, octets(address.addr()));
        match socket.element(family, TABLE, &set, &key)? {
            Some(element) if element.comment.as_deref() == Some(owner) => {
                transaction.delete_elements(family, TABLE, &set, &[key]);
            }
            _ => all = false,
        }
    }
    match socket.commit(&transaction) {
        // Another call was faster with one of them.
        Err(error) if error.not_found() => Ok(false),
        other => other.map(|()| all),
    }
}

/// Takes away what owners have that `dead` says so of.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut Nftables, dead: impl Fn(&str) -> bool) -> Result<(), NetlinkError> {
    for family in [Family::V4, Family::V6] {
        for set in socket.sets(family, TABLE)? {
            let elements = socket.elements(family, TABLE, &set)?;
            let of_dead = |element: &Element| element.comment.as_deref().is_some_and(&dead);
            for element in elements.into_iter().filter(of_dead) {
                let mut transaction = Transaction::default();
                transaction.delete_elements(family, TABLE, &set, &[element.key]);
                match socket.commit(&transaction) {
                    Err(error) if error.not_found() => {}
                    other => other?,
                }
            }
        }
    }
    Ok(())
}

/// Whether `address` is masqueraded for its owner.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn has(socket: &mut Nftables, address: IpNet, owner: &str) -> Result<bool, NetlinkError> {
    let elements = socket.elements(Family::of(address.addr()), TABLE, &Names::of(address).set)?;
    let key = octets(address.addr());
    Ok(elements.iter().any(|element| element.key == key && element.comment.as_deref() == Some(owner)))
}

struct Names {
    set: String,
    chain: String,
}

impl Names {
    fn of(address: IpNet) -> Self {
        let hex: String = octets(address.network()).iter().map(|byte| format!("{byte:02x}")).collect();
        let subnet = format!("{hex}_{}", address.prefix_len());
        Self { set: format!("pods_{subnet}"), chain: format!("subnet_{subnet}") }
    }
}

/// `ip saddr @pods ip daddr != subnet ip daddr != multicast masquerade`
fn rule(family: Family, set: &str, address: IpNet) -> Vec<E> {
    let (length, multicast_mask, multicast) = match family {
        Family::V4 => (4, 0xf0, 0xe0),
        Family::V6 => (16, 0xff, 0xff),
    };
    let register = Register(0);
    vec![
        E::Load(Field::Source(family, length), register),
        E::Member(set.into(), register),
        E::Load(Field::Destination(family, length), register),
        E::And(register, octets(address.netmask())),
        E::NotEqual(register, octets(address.network())),
        E::Load(Field::Destination(family, 1), register),
        E::And(register, vec![multicast_mask]),
        E::NotEqual(register, vec![multicast]),
        E::Masquerade,
    ]
}
