//! What has to hold for any ranges that a configuration names.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Common, Ipam, pools};

/// A plugin's configuration: what its `ipam` section hands out lies in what it names, and no address twice.
pub(crate) fn ranges(config: &Map<String, Value>) {
    let Some(Ok(ipam)) = config.get("ipam").map(Ipam::deserialize) else { return };
    let Ok(common) = Common::deserialize(&Value::Object(config.clone())) else { return };
    let Ok(pools) = pools(&ipam, &common) else { return };
    let ranges: Vec<_> = pools.iter().flat_map(|pool| pool.ranges()).collect();
    for (index, range) in ranges.iter().enumerate() {
        assert!(ranges[index + 1..].iter().all(|other| !range.overlaps(other)), "{range:?}");
        assert!(!range.offers(range.gateway()));
    }
    for pool in &pools {
        let mut last = None;
        for _ in 0..8 {
            let Some(address) = pool.next_free(last, |_| false) else { break };
            let range = pool.range_of(address).expect("what is handed out is of a range");
            assert!(range.subnet().contains(&address) && address != range.gateway(), "{address} of {range:?}");
            assert_ne!(address, range.subnet().network());
            last = Some(address);
        }
    }
}
