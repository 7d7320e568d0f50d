//! Chains of our own, and single rules, in the tables of `iptables` and `ip6tables`.
//!
//! For the handful of rules that stand as long as the host does: each assertion runs the command a few times (1 to 2 ms
//! each), so nothing here belongs on a pod's path. A chain is one piece of text; when it reads back as written it is left
//! alone, otherwise it is written anew.

use std::fmt;
use std::io;

use iptables::IPTables;

/// Which of the two commands, and so which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

/// A chain with all of its rules, and the rule of a built-in chain that leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `nat`, `filter`, …
    pub table: &'static str,
    /// At most 28 bytes.
    pub name: String,
    /// The built-in chain that jumps here.
    pub hook: &'static str,
    /// What a packet has to match to be sent here, as `iptables -S` would print it; may be empty.
    pub condition: String,
    /// The rules in order, each as `iptables -S` prints it after `-A <chain>`.
    pub rules: Vec<String>,
}

/// Where a rule goes that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Behind all others.
    Last,
}

/// The firewall cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// The command is not installed.
    #[error("{0} is not installed: install the package iptables")]
    NotInstalled(Family),
    /// The command refused.
    #[error("{family}: {operation}: {reason}")]
    Command {
        /// The command.
        family: Family,
        /// What it was to do.
        operation: String,
        /// What it printed.
        reason: String,
    },
}

/// One of the two commands, found and asked for its version.
pub struct Firewall {
    family: Family,
    command: IPTables,
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        })
    }
}

impl fmt::Debug for Firewall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Firewall").field(&self.family).finish()
    }
}

type CommandResult<T> = Result<T, Box<dyn std::error::Error>>;

impl Firewall {
    /// Finds the command.
    ///
    /// # Errors
    /// [`FirewallError::NotInstalled`].
    pub fn open(family: Family) -> Result<Self, FirewallError> {
        match iptables::new(family == Family::V6) {
            Ok(mut command) => {
                command.set_numeric(false);
                Ok(Self { family, command })
            }
            Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::NotFound) => Err(FirewallError::NotInstalled(family)),
                _ => Err(command_error(family, "--version".into(), &*error)),
            },
        }
    }

    /// Makes the chain be there, read as given, and be reached. True when something had to be changed.
    ///
    /// # Errors
    /// When the command fails: no permission, or a kernel without the table.
    pub fn assert(&self, chain: &Chain) -> Result<bool, FirewallError> {
        let (table, name) = (chain.table, chain.name.as_str());
        let run = |operation: &str, result: CommandResult<()>| {
            result.map_err(|error| command_error(self.family, format!("{operation} {name} of {table}"), &*error))
        };
        let found = self.command.list(table, name).unwrap_or_default();
        let written = Self::written(chain, &found);
        if !written {
            if !self.exists(chain)? {
                run("make chain", self.command.new_chain(table, name))?;
            }
            run("empty chain", self.command.flush_chain(table, name))?;
            for rule in &chain.rules {
                run("add a rule to", self.command.append(table, name, rule))?;
            }
        }
        let jump = chain.jump();
        let reached = self.command.exists(table, chain.hook, &jump).unwrap_or(false);
        if !reached {
            run("lead to", self.command.append(table, chain.hook, &jump))?;
        }
        Ok(!written || !reached)
    }

    /// Takes the chain away again; no error when it is not there.
    ///
    /// # Errors
    /// When the command fails.
    pub fn remove(&self, chain: &Chain) -> Result<(), FirewallError> {
        if !self.exists(chain)? {
            return Ok(());
        }
        let outcome = self
            .command
            .delete_all(chain.table, chain.hook, &chain.jump())
            .and_then(|()| self.command.flush_chain(chain.table, &chain.name))
            .and_then(|()| self.command.delete_chain(chain.table, &chain.name));
        outcome.map_err(|error| command_error(self.family, format!("remove {}", chain.name), &*error))
    }

    /// Makes a chain be there; what is in it stays.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ensure_chain(&self, table: &str, name: &str) -> Result<(), FirewallError> {
        if self.has_chain(table, name)? {
            return Ok(());
        }
        match self.command.new_chain(table, name) {
            // Another call was faster.
            Err(_) if self.has_chain(table, name)? => Ok(()),
            other => {
                other.map_err(|error| command_error(self.family, format!("make chain {name} of {table}"), &*error))
            }
        }
    }

    /// Makes a rule be in a chain, as `iptables -S` would print it behind the chain's name: as its first rule when it is not
    /// there, or as its last.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ensure_rule(&self, table: &str, chain: &str, rule: &str, place: Place) -> Result<(), FirewallError> {
        if self.command.exists(table, chain, rule).unwrap_or(false) {
            return Ok(());
        }
        let outcome = match place {
            Place::First => self.command.insert(table, chain, rule, 1),
            Place::Last => self.command.append(table, chain, rule),
        };
        outcome.map_err(|error| command_error(self.family, format!("add a rule to {chain} of {table}"), &*error))
    }

    /// Takes a rule out of a chain.
    ///
    /// # Errors
    /// When the command fails; also when the rule is not there.
    pub fn delete_rule(&self, table: &str, chain: &str, rule: &str) -> Result<(), FirewallError> {
        let outcome = self.command.delete(table, chain, rule);
        outcome.map_err(|error| command_error(self.family, format!("delete a rule of {chain} of {table}"), &*error))
    }

    /// The rules of a chain, as `iptables -S` prints them behind the chain's name; none when there is no chain.
    ///
    /// # Errors
    /// When the command fails.
    pub fn rules(&self, table: &str, chain: &str) -> Result<Vec<String>, FirewallError> {
        if !self.has_chain(table, chain)? {
            return Ok(Vec::new());
        }
        let listing = self.command.list(table, chain);
        let listing =
            listing.map_err(|error| command_error(self.family, format!("list {chain} of {table}"), &*error))?;
        let prefix = format!("-A {chain} ");
        Ok(listing.iter().filter_map(|line| line.strip_prefix(&prefix)).map(|rule| rule.trim().to_owned()).collect())
    }

    fn exists(&self, chain: &Chain) -> Result<bool, FirewallError> {
        self.has_chain(chain.table, &chain.name)
    }

    /// By `iptables -S`: the library's own question is `-L`, which asks name servers for the names of all addresses in the chain,
    /// and waits for their answers.
    fn has_chain(&self, table: &str, name: &str) -> Result<bool, FirewallError> {
        let found = self.command.list_chains(table);
        let found = found.map_err(|error| command_error(self.family, format!("look for {name}"), &*error))?;
        Ok(found.iter().any(|chain| chain == name))
    }

    /// Whether the listing of a chain (`-N` line, then `-A` lines) is exactly the chain.
    fn written(chain: &Chain, listing: &[String]) -> bool {
        let made = format!("-N {}", chain.name);
        let prefix = format!("-A {} ", chain.name);
        let rules: Vec<_> = listing.iter().filter_map(|line| line.strip_prefix(&prefix)).map(str::trim).collect();
        listing.iter().any(|line| line.trim() == made) && rules == chain.rules
    }
}

impl Chain {
    fn jump(&self) -> String {
        let condition = self.condition.trim();
        let space = if condition.is_empty() { "" } else { " " };
        format!("{condition}{space}-j {}", self.name)
    }
}

fn command_error(family: Family, operation: String, error: &dyn std::error::Error) -> FirewallError {
    FirewallError::Command { family, operation, reason: error.to_string().trim().to_owned() }
}
