//! GC: what belongs to no living container is taken away.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Attachment, Client, ClientError};
use crate::call::Runner;
use crate::conf::NetworkList;
use crate::types::{Command, ContainerId, InterfaceName};

impl<R: Runner> Client<R> {
    /// Takes every recorded attachment of the network that is not in `living` out of it, and, from 1.1.0 on, tells the
    /// plugins what lives, so that they drop the rest. Goes on behind a failure.
    ///
    /// # Errors
    /// All that failed.
    pub fn gc(
        &self,
        list: &NetworkList,
        living: &[(ContainerId, InterfaceName)],
        deadline: Instant,
    ) -> Result<(), ClientError> {
        if list.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        match self.records.all() {
            Ok(records) => {
                let mut dead = records.into_iter().filter(|record| {
                    let is = |(container, interface): &(ContainerId, InterfaceName)| record.is(container, interface);
                    record.network == list.name.as_str() && !living.iter().any(is)
                });
                errors.extend(dead.by_ref().filter_map(|record| {
                    let attachment: Result<Attachment, _> = record.recorded_attachment();
                    // Whoever is dead has no namespace, and what is at its path by now may be somebody else's.
                    let attachment = attachment.map(|one| Attachment { netns: None, ..one });
                    attachment.and_then(|one| self.del(&list.name, Some(list), &one, deadline)).err()
                }));
            }
            Err(error) => errors.push(error.into()),
        }
        if list.version.has(Command::Gc) {
            let valid: Vec<Value> = living
                .iter()
                .map(|(container, interface)| json!({"containerID": container.as_str(), "ifname": interface.as_str()}))
                .collect();
            for plugin in &list.plugins {
                let mut input = plugin.input(&list.name, list.version, None, None);
                // The first drafts of 1.1.0 had the second name; libcni sends both.
                for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                    input.insert(key.into(), Value::Array(valid.clone()));
                }
                errors.extend(self.call(plugin, Command::Gc, None, input, deadline).err());
            }
        }
        let mut errors = errors.into_iter();
        match (errors.next(), errors.collect::<Vec<_>>()) {
            (None, _) => Ok(()),
            (Some(only), others) if others.is_empty() => Err(only),
            (Some(first), others) => Err(ClientError::Several { first: Box::new(first), others }),
        }
    }
}
