//! A list of plugins that make one network together.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Capabilities;
use crate::types::{AddResult, InvalidName, NetworkName, UnknownVersion, Version};

/// A network: its plugins in the order of ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// Its name.
    pub name: NetworkName,
    /// The version that its plugins are called with.
    pub version: Version,
    /// CHECK is not to be called.
    pub disable_check: bool,
    /// GC is not to be called: several runtimes share the network.
    pub disable_gc: bool,
    /// Whether plugins in files of their own, in the folder of the network's name, do not belong to it.
    pub only_inlined: bool,
    /// Its plugins.
    pub plugins: Vec<PluginConf>,
    /// The text it was read from, for the record that DEL works from.
    pub text: Vec<u8>,
}

/// One plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// The name of its program: no path.
    pub kind: String,
    /// What it can be told at run time, and whether it wants to be.
    pub capabilities: BTreeMap<String, bool>,
    /// The whole of it, with what is for the plugin alone.
    pub fields: Map<String, Value>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConf {
    /// It is no JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    /// A field is missing, or is not what it should be.
    #[error("{field}: {reason}")]
    Field {
        /// Which, with its place.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Its name cannot be.
    #[error("name")]
    Name(#[from] InvalidName),
    /// It is for another version of the specification.
    #[error("cniVersion")]
    Version(#[from] UnknownVersion),
}

fn field(field: impl Into<String>, reason: impl Into<String>) -> InvalidConf {
    InvalidConf::Field { field: field.into(), reason: reason.into() }
}

impl NetworkList {
    /// Reads a list (`plugins`), or a single plugin's configuration as a list of one.
    ///
    /// # Errors
    /// When it is no JSON object, or has no name, a version that we do not know, or a plugin without a type.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidConf> {
        let value: Value = serde_json::from_slice(text)?;
        let Value::Object(fields) = value else { return Err(field("configuration", "is no JSON object")) };
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default().parse()?;
        let version = version_of(&fields)?;
        let plugins = match fields.get("plugins") {
            Some(Value::Array(plugins)) => {
                let parse = |(index, plugin): (usize, &Value)| PluginConf::parse(plugin, &format!("plugins[{index}]"));
                plugins.iter().enumerate().map(parse).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(field("plugins", "is no list")),
            None if fields.contains_key("type") => vec![PluginConf::parse(&Value::Object(fields.clone()), "plugin")?],
            None => Vec::new(),
        };
        let list = Self {
            name,
            version,
            disable_check: flag(&fields, "disableCheck")?,
            disable_gc: flag(&fields, "disableGC")?,
            only_inlined: flag(&fields, "loadOnlyInlinedPlugins")?,
            plugins,
            text: text.to_vec(),
        };
        if list.plugins.is_empty() && (list.only_inlined || fields.contains_key("type")) {
            return Err(field("plugins", "is empty"));
        }
        Ok(list)
    }

    /// The names of its plugins, and of those that they have addresses from.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        fn ipam(plugin: &PluginConf) -> Option<&str> {
            plugin.fields.get("ipam")?.get("type")?.as_str()
        }
        let kinds = self.plugins.iter().flat_map(|plugin| [Some(plugin.kind.as_str()), ipam(plugin)]);
        kinds.flatten().filter(|kind| !kind.is_empty())
    }

    /// The same with plugins that were found in files of their own, behind its own.
    pub(super) fn extended(mut self, plugins: Vec<PluginConf>) -> Self {
        if plugins.is_empty() {
            return self;
        }
        self.plugins.extend(plugins);
        // The record has to be whole without the files.
        let mut fields: Map<String, Value> = serde_json::from_slice(&self.text).unwrap_or_default();
        let all = self.plugins.iter().map(|plugin| Value::Object(plugin.fields.clone())).collect();
        fields.insert("plugins".into(), Value::Array(all));
        fields.insert("loadOnlyInlinedPlugins".into(), Value::Bool(true));
        self.text = Value::Object(fields).to_string().into_bytes();
        self
    }
}

/// The newest of `cniVersions` and `cniVersion` that we know; `cniVersion` alone has to be known.
fn version_of(fields: &Map<String, Value>) -> Result<Version, InvalidConf> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| field("cniVersion", "is no text"));
    let one = fields.get("cniVersion").map(text).transpose()?.unwrap_or_default();
    let many = match fields.get("cniVersions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(many)) => many.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        Some(_) => return Err(field("cniVersions", "is no list")),
    };
    let known = many.iter().filter(|text| !text.is_empty()).filter_map(|text| text.parse::<Version>().ok());
    match known.chain(one.parse().ok().filter(|_| !one.is_empty() || many.is_empty())).max() {
        Some(version) => Ok(version),
        None => Ok(many.first().unwrap_or(&one).parse::<Version>()?),
    }
}

/// A boolean, which some write as a text.
fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, InvalidConf> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(field(name, format!("{other} is no boolean"))),
    }
}

impl PluginConf {
    /// Reads one plugin's configuration; `place` says where it stands.
    pub(super) fn parse(value: &Value, place: &str) -> Result<Self, InvalidConf> {
        let Value::Object(fields) = value else { return Err(field(place, "is no JSON object")) };
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.is_empty() {
            return Err(field(format!("{place}.type"), "is missing"));
        }
        // It is joined to a folder and run as root.
        if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
            return Err(field(format!("{place}.type"), format!("{kind:?} is a path, not a plugin's name")));
        }
        let capabilities = match fields.get("capabilities") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(map)) => {
                let on = |(key, value): (&String, &Value)| (key.clone(), value.as_bool().unwrap_or(false));
                map.iter().map(on).collect()
            }
            Some(_) => return Err(field(format!("{place}.capabilities"), "is no JSON object")),
        };
        Ok(Self { kind: kind.into(), capabilities, fields: fields.clone() })
    }

    /// What the plugin reads: its configuration with the network's name and version, those capability arguments that it
    /// says it takes, and the result of the plugins before it.
    pub fn input(
        &self,
        name: &NetworkName,
        version: Version,
        capabilities: Option<&Capabilities>,
        previous: Option<&AddResult>,
    ) -> Map<String, Value> {
        let mut input = self.fields.clone();
        // What only a runtime may say is not to be said by a file.
        for key in ["runtimeConfig", "prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"] {
            input.remove(key);
        }
        input.insert("name".into(), json!(name.as_str()));
        input.insert("cniVersion".into(), json!(version.as_str()));
        let wanted = |key: &str| self.capabilities.get(key).copied().unwrap_or(false);
        if let Some(arguments) = capabilities {
            let chosen: Map<_, _> = arguments.to_map().into_iter().filter(|(key, _)| wanted(key)).collect();
            if !chosen.is_empty() {
                input.insert("runtimeConfig".into(), Value::Object(chosen));
            }
        }
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.to_value(version));
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<NetworkList, InvalidConf> {
        NetworkList::parse(text.as_bytes())
    }

    #[test]
    fn a_list_and_a_single_plugin_are_both_networks() {
        let list = parse(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x"},{"type":"y","z":1}]}"#).unwrap();
        assert_eq!(list.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        let single = parse(r#"{"name":"a","type":"x"}"#).unwrap();
        assert_eq!((single.version, single.plugins.len()), (Version::V0_1_0, 1));
    }

    #[test]
    fn the_newest_version_that_both_know_is_taken() {
        let version = |text: &str| parse(&format!(r#"{{{text},"name":"a","type":"x"}}"#)).map(|list| list.version);
        assert_eq!(
            version(r#""cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","9.0.0"]"#).unwrap(),
            Version::V1_1_0
        );
        assert_eq!(version(r#""cniVersions":["0.3.1","0.4.0"]"#).unwrap(), Version::V0_4_0);
        assert!(version(r#""cniVersion":"9.0.0""#).is_err());
        assert!(version(r#""cniVersions":["9.0.0"]"#).is_err());
        assert!(version(r#""cniVersion":1"#).is_err());
    }

    #[test]
    fn what_cannot_be_a_network_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"name":"../x","type":"x"}"#,
            r#"{"name":"a","plugins":{}}"#,
            r#"{"name":"a","plugins":[{"kind":"x"}]}"#,
            r#"{"name":"a","type":"../sh"}"#,
            r#"{"name":"a","type":".."}"#,
            r#"{"name":"a","plugins":[],"loadOnlyInlinedPlugins":true}"#,
            r#"{"name":"a","type":"x","disableCheck":"perhaps"}"#,
            r#"{"name":"a","type":"x","capabilities":[]}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let flags = parse(r#"{"name":"a","type":"x","disableCheck":"True","disableGC":true}"#).unwrap();
        assert!(flags.disable_check && flags.disable_gc);
    }

    #[test]
    fn a_plugin_hears_only_what_it_asked_for() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","k":1,"prevResult":{"a":1},
            "capabilities":{"portMappings":true,"mac":false,"ips":true}}]}"#,
        )
        .unwrap();
        let capabilities = Capabilities {
            port_mappings: vec![serde_json::from_str(r#"{"hostPort":80,"containerPort":8080}"#).unwrap()],
            mac: Some("02:00:00:00:00:01".into()),
            ..Capabilities::default()
        };
        let input = list.plugins[0].input(&list.name, list.version, Some(&capabilities), None);
        assert_eq!(
            Value::Object(input),
            json!({"cniVersion": "1.0.0", "name": "n", "type": "x", "k": 1,
                "capabilities": {"portMappings": true, "mac": false, "ips": true},
                "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]}})
        );
    }

    /// Found by fuzzing: the last digit of a number that no integer holds was another one when its plugin read it.
    #[test]
    fn a_plugins_numbers_reach_it_as_they_are() {
        let number = format!("7777777777777777377{}0", "7".repeat(64));
        let list = parse(&format!(r#"{{"name":"n","type":"x","large":{number}}}"#)).unwrap();
        let input = Value::Object(list.plugins[0].input(&list.name, list.version, None, None));
        assert_eq!(input["large"].as_f64(), number.parse().ok());
        assert_eq!(serde_json::from_str::<Value>(&input.to_string()).unwrap(), input);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = NetworkList::parse(&bytes);
        }

        #[test]
        fn any_object_is_read_or_refused(
            key in "(plugins|name|type|cniVersion|cniVersions|capabilities|disableGC)",
            value in "(null|1|\"\"|\"x\"|\\[\\]|\\[1\\]|\\[\\{\\}\\]|\\{\\}|true)",
        ) {
            let _ = parse(&format!(r#"{{"name":"a","type":"x","{key}":{value}}}"#));
        }
    }
}
