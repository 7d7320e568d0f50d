//! Who wants what of which container.

use std::collections::BTreeMap;

use nri_api::v1alpha1::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins};

use super::MergeError;

/// Owners by container, field and the entry's key; of a field without entries the key is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Owners(BTreeMap<(String, i32, String), String>);

/// A plugin that wants something of a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) container: &'a str,
    pub(super) plugin: &'a str,
}

impl Owners {
    /// Makes the plugin the owner of what nobody else owns.
    pub(super) fn claim(&mut self, by: Claim<'_>, field: Field, key: &str) -> Result<(), MergeError> {
        let owner = self.0.entry((by.container.to_owned(), field as i32, key.to_owned()));
        let owner = owner.or_insert_with(|| by.plugin.to_owned());
        if owner == by.plugin {
            return Ok(());
        }
        let what =
            if key.is_empty() { field.as_str_name().to_owned() } else { format!("{} {key:?}", field.as_str_name()) };
        Err(MergeError::Conflict {
            first: owner.clone(),
            second: by.plugin.to_owned(),
            what,
            container: by.container.to_owned(),
        })
    }

    /// Of what adds up each plugin owns its part.
    pub(super) fn join(&mut self, by: Claim<'_>, field: Field) {
        let owner = self.0.entry((by.container.to_owned(), field as i32, String::new())).or_default();
        if !owner.is_empty() {
            owner.push(',');
        }
        owner.push_str(by.plugin);
    }

    /// Nobody owns it any more: the plugin has taken it away.
    pub(super) fn release(&mut self, by: Claim<'_>, field: Field, key: &str) {
        self.0.remove(&(by.container.to_owned(), field as i32, key.to_owned()));
    }

    /// As validating plugins are told.
    pub(super) fn message(&self) -> OwningPlugins {
        let mut owners: BTreeMap<String, FieldOwners> = BTreeMap::new();
        for ((container, field, key), plugin) in &self.0 {
            let fields = owners.entry(container.clone()).or_default();
            if key.is_empty() {
                fields.simple.insert(*field, plugin.clone());
            } else {
                let entries: &mut CompoundFieldOwners = fields.compound.entry(*field).or_default();
                entries.owners.insert(key.clone(), plugin.clone());
            }
        }
        OwningPlugins { owners }
    }
}
