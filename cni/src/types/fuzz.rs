//! What has to hold for any text that a plugin answers with, or is called with.

use serde_json::Value;

use super::{AddResult, Args, CniError, ContainerId, InterfaceName, NetworkName, Version};

/// The first byte says which version a result that names none is of; the rest is what the plugin printed.
pub(crate) fn result(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    if let Ok(error) = serde_json::from_slice::<CniError>(text) {
        let again = serde_json::to_vec(&error).ok().and_then(|text| serde_json::from_slice(&text).ok());
        assert_eq!(again.as_ref(), Some(&error));
        assert!(error.to_string().starts_with(&error.msg));
    }
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
    let version = Version::ALL[usize::from(*choice) % Version::ALL.len()];
    let Ok(result) = AddResult::read(&value, version) else { return };
    assert!(result.ips.iter().filter_map(|ip| ip.interface).all(|index| index < result.interfaces.len()));
    assert_eq!(in_words_of(&result, Version::CURRENT), result, "the newest version has words for everything");
    for version in Version::ALL {
        let once = in_words_of(&result, version);
        assert_eq!(in_words_of(&once, version), once, "{version}: what was understood is said again");
        let printed = result.print(version).expect("nothing is in it that cannot be printed");
        assert_eq!(serde_json::from_slice::<Value>(&printed).ok(), Some(result.to_value(version)));
    }
}

fn in_words_of(result: &AddResult, version: Version) -> AddResult {
    AddResult::read(&result.to_value(version), Version::CURRENT).expect("what we write is read")
}

/// A text as each of the variables that a plugin is called with.
pub(crate) fn args(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(args) = text.parse::<Args>() {
        assert_eq!(args.to_string().parse().as_ref(), Ok(&args));
        assert_eq!(Args::new(args.pairs().to_vec()).as_ref(), Ok(&args), "a record keeps the pairs");
        for (key, _) in args.pairs() {
            let first = args.pairs().iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            assert_eq!(args.get(key), first);
        }
    }
    let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\0', ' ', '\n']) && name != "." && name != "..";
    assert!(text.parse::<ContainerId>().is_err() || (plain(text) && text.len() <= 200));
    assert!(text.parse::<NetworkName>().is_err() || (plain(text) && text.len() <= 200));
    assert!(text.parse::<InterfaceName>().is_err() || (plain(text) && text.len() <= 15));
}
