//! Which network new pods get, by what stands in the folder.

use std::path::Path;
use std::sync::Arc;

use cni::conf::{Folder, NetworkList};

use crate::model::chain;

/// What the folder says.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::network) enum Found {
    /// No network at all.
    Nothing,
    /// This one: the first that can be used.
    Network(Arc<NetworkList>),
    /// There are files, and none of them can be used.
    Unusable(String),
}

/// Reads the folder. A network that is there and wrong is not the same as none: the operator wants it.
pub(super) fn read(folder: &Path) -> Found {
    let found = match Folder::load(folder) {
        Ok(found) => found,
        Err(error) => return Found::Unusable(chain(&error)),
    };
    match (found.lists.into_iter().next(), found.refused.as_slice()) {
        (Some((_, list)), _) => Found::Network(Arc::new(list)),
        (None, []) => Found::Nothing,
        (None, refused) => Found::Unusable(refused.iter().map(|one| chain(one)).collect::<Vec<_>>().join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_no_network_is_told_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")), Found::Nothing);
        assert_eq!(read(folder.path()), Found::Nothing);
        fs::write(folder.path().join("10-a.conflist"), r#"{"name": "a", "plugins": [{"kind": "bridge"}]}"#).unwrap();
        let Found::Unusable(reason) = read(folder.path()) else { panic!() };
        assert!(reason.contains("10-a.conflist: plugins[0].type: is missing"), "{reason}");
        // One that can be used is, wherever it stands.
        fs::write(folder.path().join("20-b.conflist"), r#"{"name": "b", "plugins": [{"type": "bridge"}]}"#).unwrap();
        assert!(matches!(read(folder.path()), Found::Network(list) if list.name.as_str() == "b"));
    }
}
