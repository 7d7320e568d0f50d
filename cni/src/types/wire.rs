//! The forms of a result on the wire, one for each change that the specification made.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AddResult, Dns, Interface, IpConfig, Route, Version, pretty};

/// 1.0.0 and 1.1.0
#[derive(Serialize, Deserialize)]
struct Current {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    interfaces: Vec<Interface>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    ips: Vec<IpConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "nullable")]
    dns: Dns,
}

/// 0.3.0 to 0.4.0: every address says of which family it is.
#[derive(Serialize, Deserialize)]
struct Families {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    interfaces: Vec<Interface>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    ips: Vec<FamilyIp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "nullable")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct FamilyIp {
    #[serde(default)]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

/// 0.1.0 and 0.2.0: at most one address of each family, each with its routes, and no interfaces.
#[derive(Serialize, Deserialize)]
struct Pair {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<PairIp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<PairIp>,
    #[serde(default, deserialize_with = "nullable")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct PairIp {
    ip: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    routes: Vec<Route>,
}

/// Programs in Go write `null` for a list that is not there.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

pub(super) fn read(value: &Value, version: Version) -> serde_json::Result<AddResult> {
    match version {
        Version::V1_0_0 | Version::V1_1_0 => {
            let Current { interfaces, ips, routes, dns, .. } = Current::deserialize(value)?;
            Ok(AddResult { interfaces, ips, routes, dns })
        }
        Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => {
            let Families { interfaces, ips, routes, dns, .. } = Families::deserialize(value)?;
            let ip = |ip: FamilyIp| IpConfig {
                interface: ip.interface.and_then(|index| usize::try_from(index).ok()),
                address: ip.address,
                gateway: ip.gateway,
            };
            Ok(AddResult { interfaces, ips: ips.into_iter().map(ip).collect(), routes, dns })
        }
        Version::V0_1_0 | Version::V0_2_0 => {
            let Pair { ip4, ip6, dns, .. } = Pair::deserialize(value)?;
            let mut result = AddResult { dns, ..AddResult::default() };
            for pair in [ip4, ip6].into_iter().flatten() {
                result.ips.push(IpConfig::new(pair.ip, pair.gateway));
                result.routes.extend(pair.routes);
            }
            Ok(result)
        }
    }
}

enum Form {
    Current(Current),
    Families(Families),
    Pair(Pair),
}

fn form(result: &AddResult, version: Version) -> Form {
    let (interfaces, routes, dns) = (result.interfaces.clone(), result.routes.clone(), result.dns.clone());
    let text = version.as_str().to_owned();
    match version {
        Version::V1_1_0 => Form::Current(Current { version: text, interfaces, ips: result.ips.clone(), routes, dns }),
        Version::V1_0_0 => Form::Current(Current {
            version: text,
            interfaces: interfaces.into_iter().map(plain_interface).collect(),
            ips: result.ips.clone(),
            routes: routes.into_iter().map(plain_route).collect(),
            dns,
        }),
        Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => {
            let ip = |ip: &IpConfig| FamilyIp {
                version: if ip.address.addr().is_ipv4() { "4" } else { "6" }.into(),
                interface: ip.interface.and_then(|index| i64::try_from(index).ok()),
                address: ip.address,
                gateway: ip.gateway,
            };
            Form::Families(Families {
                version: text,
                interfaces: interfaces.into_iter().map(plain_interface).collect(),
                ips: result.ips.iter().map(ip).collect(),
                routes: routes.into_iter().map(plain_route).collect(),
                dns,
            })
        }
        Version::V0_1_0 | Version::V0_2_0 => {
            let of = |v4: bool| {
                let ip = result.ips_of(v4).next()?;
                let routes = routes.iter().filter(|route| route.dst.addr().is_ipv4() == v4);
                let routes = routes.cloned().map(plain_route).collect();
                Some(PairIp { ip: ip.address, gateway: ip.gateway, routes })
            };
            Form::Pair(Pair { version: text, ip4: of(true), ip6: of(false), dns })
        }
    }
}

/// Before 1.1.0.
fn plain_interface(interface: Interface) -> Interface {
    Interface { mtu: 0, socket_path: String::new(), pci_id: String::new(), ..interface }
}

/// Before 1.1.0.
fn plain_route(route: Route) -> Route {
    Route::new(route.dst, route.gw)
}

pub(super) fn to_value(result: &AddResult, version: Version) -> Value {
    let value = match form(result, version) {
        Form::Current(form) => serde_json::to_value(form),
        Form::Families(form) => serde_json::to_value(form),
        Form::Pair(form) => serde_json::to_value(form),
    };
    // Strings, numbers and lists of those: there is nothing that serde_json refuses.
    value.unwrap_or_default()
}

pub(super) fn print(result: &AddResult, version: Version) -> serde_json::Result<Vec<u8>> {
    match form(result, version) {
        Form::Current(form) => pretty(&form),
        Form::Families(form) => pretty(&form),
        Form::Pair(form) => pretty(&form),
    }
}
