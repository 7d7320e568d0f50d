//! What has to hold for any text that an operator, or a controller of theirs, puts into the folder of networks.

use serde_json::{Map, Value};

use super::{Capabilities, NetworkList};
use crate::plugins::fuzz_pools;
use crate::types::{AddResult, Version};

/// The first byte says what a runtime has to tell the plugins; the rest is the file.
pub(crate) fn list(data: &[u8]) {
    let Some((choices, text)) = data.split_first() else { return };
    let Ok(list) = NetworkList::parse(text) else { return };
    assert_eq!(NetworkList::parse(&list.text).ok(), Some(list.clone()), "the record is read as the file was");
    assert!(!list.name.as_str().contains('/') && list.name.as_str() != "..");
    let capabilities = Capabilities {
        mac: (choices & 1 != 0).then(|| "02:00:00:00:00:01".into()),
        ips: if choices & 2 != 0 { vec!["10.1.0.5".into()] } else { Vec::new() },
        ..Capabilities::default()
    };
    let version = Version::ALL[usize::from(choices >> 2) % Version::ALL.len()];
    let previous = AddResult::default();
    for plugin in &list.plugins {
        assert!(!plugin.kind.is_empty() && !plugin.kind.contains(['/', '\0']), "{:?}", plugin.kind);
        assert!(plugin.kind != "." && plugin.kind != "..");
        let asked = |key: &str| plugin.capabilities.get(key) == Some(&true);
        let bare = plugin.input(&list.name, version, None, None);
        assert!(!bare.contains_key("runtimeConfig") && !bare.contains_key("prevResult"), "a file cannot say it");
        let told = plugin.input(&list.name, version, Some(&capabilities), Some(&previous));
        assert!(told.contains_key("prevResult"));
        let argument = |key: &str| told.get("runtimeConfig").is_some_and(|arguments| arguments.get(key).is_some());
        assert_eq!(argument("mac"), asked("mac") && capabilities.mac.is_some());
        assert_eq!(argument("ips"), asked("ips") && !capabilities.ips.is_empty());
        let whole = serde_json::from_slice::<Map<String, Value>>(Value::Object(told.clone()).to_string().as_bytes());
        assert_eq!(whole.ok(), Some(told), "a plugin reads what was said");
        fuzz_pools(&plugin.fields);
    }
}
