//! Networks on disk: the files of a folder, in the order of their names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::list::{InvalidConf, NetworkList, PluginConf};

/// A list is a page of text; what is longer is none.
const LARGEST_FILE: u64 = 1 << 20;
/// A folder may hold other things too; those who watch it read it often.
const MOST_FILES: usize = 1000;

/// The networks of a folder.
#[derive(Debug, Default)]
pub struct Folder {
    /// Those that can be used, by their files' names: the first is a node's default network.
    pub lists: Vec<(PathBuf, NetworkList)>,
    /// Files that cannot be used.
    pub refused: Vec<RefusedFile>,
}

/// A file that is no network.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct RefusedFile {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: InvalidConf,
}

/// The folder or a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FolderError {
    /// What was being done.
    operation: &'static str,
    /// To what.
    path: PathBuf,
    /// Why it failed.
    source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |source| FolderError { operation, path, source }
}

impl Folder {
    /// Reads all networks of a folder: `.conflist`, `.conf` and `.json`, lexically by name. Any other ending (`.disabled`,
    /// `.bak`, …) disables a file. A folder that is not there has none.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, so that nobody knows whether it has a network. A file that vanished
    /// meanwhile is none.
    pub fn load(folder: &Path) -> Result<Self, FolderError> {
        let mut found = Self::default();
        for path in files(folder, &["conflist", "conf", "json"])? {
            let Some(text) = read(&path)? else { continue };
            let parsed = match NetworkList::parse(&text) {
                Ok(list) => complete(folder, list)?,
                Err(source) => Err(RefusedFile { path: path.clone(), source }),
            };
            match parsed {
                Ok(list) => found.lists.push((path, list)),
                Err(refused) => found.refused.push(refused),
            }
        }
        Ok(found)
    }

    /// The network that pods get: the first one.
    pub fn default_network(&self) -> Option<&NetworkList> {
        self.lists.first().map(|(_, list)| list)
    }

    /// A network by its name.
    pub fn network(&self, name: &str) -> Option<&NetworkList> {
        self.lists.iter().map(|(_, list)| list).find(|list| list.name.as_str() == name)
    }
}

/// Adds the plugins that stand in files of their own, in the folder named like the network (`.conf`).
fn complete(folder: &Path, list: NetworkList) -> Result<Result<NetworkList, RefusedFile>, FolderError> {
    if list.only_inlined {
        return Ok(Ok(list));
    }
    let mut plugins = Vec::new();
    let own = folder.join(list.name.as_str());
    for path in files(&own, &["conf"])? {
        let Some(text) = read(&path)? else { continue };
        let plugin = serde_json::from_slice(&text).map_err(InvalidConf::from);
        match plugin.and_then(|value| PluginConf::parse(&value, "plugin")) {
            Ok(plugin) => plugins.push(plugin),
            Err(source) => return Ok(Err(RefusedFile { path, source })),
        }
    }
    let list = list.extended(plugins);
    if list.plugins.is_empty() {
        let reason = format!("is empty, and {} has no .conf file", own.display());
        let source = InvalidConf::Field { field: "plugins".into(), reason };
        return Ok(Err(RefusedFile { path: own, source }));
    }
    Ok(Ok(list))
}

fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, FolderError> {
    let listing = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(failed("list", folder))?,
    };
    let mut paths = Vec::new();
    for entry in listing.take(MOST_FILES) {
        let path = entry.map_err(failed("list", folder))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        // Follows links, as config maps are made of them.
        if ending.is_some_and(|ending| endings.contains(&ending)) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open", path))?,
    };
    let mut text = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut text).map_err(failed("read", path))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(failed("read", path)(io::Error::other("larger than 1 MiB")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Folder) -> Vec<&str> {
        folder.lists.iter().map(|(_, list)| list.name.as_str()).collect()
    }

    #[test]
    fn files_are_read_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("20-b.conf", r#"{"name":"b","type":"x"}"#);
        write("10-a.conflist", r#"{"name":"a","plugins":[{"type":"x"}]}"#);
        write("30-c.json", r#"{"name":"c","type":"x"}"#);
        write("05-off.conflist.disabled", r#"{"name":"off","type":"x"}"#);
        write("06-broken.conflist", "{");
        fs::create_dir(folder.path().join("07-folder.conf")).unwrap();
        let loaded = Folder::load(folder.path()).unwrap();
        assert_eq!(names(&loaded), ["a", "b", "c"]);
        assert_eq!(loaded.default_network().unwrap().name.as_str(), "a");
        assert!(loaded.network("c").is_some() && loaded.network("off").is_none());
        assert!(loaded.refused.len() == 1 && loaded.refused[0].path.ends_with("06-broken.conflist"));
    }

    #[test]
    fn plugins_in_files_of_their_own_come_last() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("net")).unwrap();
        write("net.conflist", r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"x"}]}"#);
        write("net/2.conf", r#"{"type":"z"}"#);
        write("net/1.conf", r#"{"type":"y"}"#);
        let kinds = || {
            let loaded = Folder::load(folder.path()).unwrap();
            loaded.default_network().map(|list| list.plugins.iter().map(|p| p.kind.clone()).collect::<Vec<_>>())
        };
        assert_eq!(kinds().unwrap(), ["x", "y", "z"]);
        // The record of such a network is whole.
        let loaded = Folder::load(folder.path()).unwrap();
        let list = loaded.default_network().unwrap();
        assert_eq!(NetworkList::parse(&list.text).unwrap().plugins, list.plugins);

        write(
            "net.conflist",
            r#"{"cniVersion":"1.1.0","name":"net","loadOnlyInlinedPlugins":true,"plugins":[{"type":"x"}]}"#,
        );
        assert_eq!(kinds().unwrap(), ["x"]);
        write("net.conflist", r#"{"cniVersion":"1.1.0","name":"other","plugins":[]}"#);
        assert_eq!(kinds(), None);
        assert_eq!(Folder::load(folder.path()).unwrap().refused.len(), 1);
    }

    #[test]
    fn no_folder_is_no_network_and_a_huge_file_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Folder::load(&folder.path().join("none")).unwrap().lists.is_empty());
        fs::write(folder.path().join("a.conf"), vec![b' '; 2 << 20]).unwrap();
        assert!(Folder::load(folder.path()).is_err());
    }
}
