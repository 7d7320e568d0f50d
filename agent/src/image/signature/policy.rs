//! The policy file: the part of containers-policy.json(5) that is about registries and sigstore signatures by key. What it
//! does not know it refuses: a rule that is misread is no rule.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::identity::Identity;
use super::key::PublicKey;
use crate::image::reference::Reference;

/// The transport that images of registries have.
const DOCKER: &str = "docker";
/// A policy of thousands of scopes is a hundredth of it.
const LARGEST: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Rule>,
    #[serde(default)]
    transports: HashMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Rule {
    InsecureAcceptAnything {},
    Reject {},
    SigstoreSigned {
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        #[serde(default)]
        signed_identity: Identity,
    },
}

/// One thing that has to hold for an image.
pub(super) enum Requirement {
    /// It always does.
    Accept,
    /// It never does.
    Reject,
    /// A signature by one of the keys, about this image.
    Signed { keys: Vec<PublicKey>, identity: Identity },
}

/// Reads the policy and answers what an image has to fulfil: all of it. Blocks. An error is a text for people.
pub(super) fn requirements(path: &Path, image: &Reference) -> Result<(String, Vec<Requirement>), String> {
    let length = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > LARGEST {
        return Err(format!("{length} bytes are more than the {LARGEST} that a policy may have"));
    }
    let text = fs::read(path).map_err(|e| e.to_string())?;
    let (scope, rules) = choose(&text, image)?;
    let requirements = rules.into_iter().map(|rule| rule.load(&scope)).collect::<Result<_, _>>()?;
    Ok((scope, requirements))
}

/// The rules of the narrowest scope that the image is in, and its name.
fn choose(text: &[u8], image: &Reference) -> Result<(String, Vec<Rule>), String> {
    let mut file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let docker = file.transports.remove(DOCKER).unwrap_or_else(|| serde_json::json!({}));
    // All of them are read, so that a mistake is not found by the one image that it is about.
    let docker: HashMap<String, Vec<Rule>> =
        serde_json::from_value(docker).map_err(|e| format!("transports.docker: {e}"))?;
    let empty = docker.iter().map(|(scope, rules)| (scope.as_str(), rules)).chain([("default", &file.default)]);
    for (scope, rules) in empty {
        if rules.is_empty() {
            return Err(format!("{scope:?} has no requirement; `reject` and `insecureAcceptAnything` are the least"));
        }
    }
    let mut docker = docker;
    let found = scopes(image).into_iter().find_map(|scope| docker.remove(&scope).map(|rules| (scope, rules)));
    Ok(found.unwrap_or_else(|| ("default".to_owned(), file.default)))
}

/// From the narrowest to the widest: the reference, its repository and each part above it, the registry, its domains.
fn scopes(image: &Reference) -> Vec<String> {
    let mut scopes = vec![image.canonical()];
    let name = image.name();
    let mut rest = Some(name.as_str());
    while let Some(scope) = rest {
        scopes.push(scope.to_owned());
        rest = scope.rsplit_once('/').map(|(above, _)| above);
    }
    let host = image.registry();
    if !host.starts_with('[') {
        let mut host = host.split_once(':').map_or(host, |(host, _)| host);
        while let Some((_, domain)) = host.split_once('.') {
            scopes.push(format!("*.{domain}"));
            host = domain;
        }
    }
    scopes.push(String::new());
    scopes
}

impl Rule {
    fn load(self, scope: &str) -> Result<Requirement, String> {
        let (identity, keys) = match self {
            Self::InsecureAcceptAnything {} => return Ok(Requirement::Accept),
            Self::Reject {} => return Ok(Requirement::Reject),
            Self::SigstoreSigned { key_path, key_paths, key_data, key_datas, signed_identity } => {
                let of_files = |paths: Vec<PathBuf>| paths.into_iter().map(from_file).collect();
                let of_texts = |texts: Vec<String>| texts.into_iter().map(|text| from_data(&text)).collect();
                let keys: Result<Vec<PublicKey>, String> = match (key_path, key_paths, key_data, key_datas) {
                    (Some(path), None, None, None) => of_files(vec![path]),
                    (None, Some(paths), None, None) => of_files(paths),
                    (None, None, Some(text), None) => of_texts(vec![text]),
                    (None, None, None, Some(texts)) => of_texts(texts),
                    _ => Err("exactly one of keyPath, keyPaths, keyData and keyDatas is needed".to_owned()),
                };
                (signed_identity, keys)
            }
        };
        let checked = identity.check().and(keys).map_err(|reason| format!("{scope:?}: sigstoreSigned: {reason}"));
        checked.map(|keys| Requirement::Signed { keys, identity })
    }
}

fn from_file(path: PathBuf) -> Result<PublicKey, String> {
    let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    PublicKey::from_pem(&text).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// base64 of a PEM text.
fn from_data(text: &str) -> Result<PublicKey, String> {
    let pem = STANDARD.decode(text.trim()).map_err(|_| "key data is no base64".to_owned())?;
    PublicKey::from_pem(&pem).map_err(|reason| format!("key data: {reason}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::key::tests::KEYS;
    use super::*;

    fn chosen(policy: &serde_json::Value, image: &str) -> Result<String, String> {
        choose(policy.to_string().as_bytes(), &image.parse().unwrap()).map(|(scope, _)| scope)
    }

    #[test]
    fn the_narrowest_scope_counts() {
        let any = json!([{"type": "insecureAcceptAnything"}]);
        let scopes =
            ["r.example.com/a/b:1", "r.example.com/a/b", "r.example.com/a", "r.example.com", "*.example.com", ""];
        let mut docker: serde_json::Map<String, serde_json::Value> =
            scopes.iter().map(|scope| ((*scope).to_owned(), any.clone())).collect();
        let image = "r.example.com/a/b:1";
        for scope in scopes {
            let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": docker}});
            assert_eq!(chosen(&policy, image).unwrap(), scope);
            docker.remove(scope);
        }
        let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": docker, "atomic": "whatever"}});
        assert_eq!(chosen(&policy, image).unwrap(), "default");
        let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"*.com": any, "docker.io/library": any}}});
        assert_eq!(chosen(&policy, "x.y.com:5000/a").unwrap(), "*.com");
        assert_eq!(chosen(&policy, "busybox").unwrap(), "docker.io/library");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let accept = json!([{"type": "insecureAcceptAnything"}]);
        for bad in [
            json!({}),
            json!({"default": []}),
            json!({"default": accept, "else": {}}),
            json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}),
            json!({"default": [{"type": "sigstoreSigned", "fulcio": {}}]}),
            json!({"default": accept, "transports": {"docker": {"other.io": []}}}),
            json!({"default": accept, "transports": {"docker": {"other.io": [{"type": "acceptSome"}]}}}),
        ] {
            assert!(chosen(&bad, "r.io/a:1").is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_come_from_files_and_from_the_policy_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (policy, key) = (dir.path().join("policy.json"), dir.path().join("key.pem"));
        fs::write(&key, KEYS[0].0).unwrap();
        let data = STANDARD.encode(KEYS[3].0);
        let load = |rule: serde_json::Value| {
            fs::write(&policy, json!({"default": [rule]}).to_string()).unwrap();
            requirements(&policy, &"r.io/a:1".parse().unwrap()).map(|(_, list)| match list.as_slice() {
                [Requirement::Signed { keys, .. }] => keys.len(),
                _ => 0,
            })
        };
        assert_eq!(load(json!({"type": "sigstoreSigned", "keyPath": key})), Ok(1));
        assert_eq!(load(json!({"type": "sigstoreSigned", "keyPaths": [key, key]})), Ok(2));
        assert_eq!(load(json!({"type": "sigstoreSigned", "keyData": data})), Ok(1));
        assert_eq!(load(json!({"type": "sigstoreSigned", "keyDatas": [data]})), Ok(1));
        for bad in [
            json!({"type": "sigstoreSigned"}),
            json!({"type": "sigstoreSigned", "keyPath": key, "keyData": data}),
            json!({"type": "sigstoreSigned", "keyPath": "/no/such/key"}),
            json!({"type": "sigstoreSigned", "keyPath": policy}),
            json!({"type": "sigstoreSigned", "keyData": "bm8ga2V5"}),
        ] {
            assert!(load(bad.clone()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = choose(text.as_bytes(), &"r.io/a:1".parse().unwrap());
        }
    }
}
