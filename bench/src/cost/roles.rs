//! Who is watched: four pairs play four roles, by turns. A pair may be faster than another for as long as it lives
//! (by where its memory lies, say), so either the pairs change their roles or each round has new ones.

use std::path::PathBuf;

use anyhow::Context;

use super::pair::{Pair, Place, Places, Program};
use crate::cgroups::{Cgroups, Limits};

/// What a pair is in a round.
pub(super) struct Role {
    /// Its name.
    pub name: &'static str,
    /// Whether the agent watches the server.
    pub server: bool,
    /// Whether it watches the client.
    pub client: bool,
}

/// The roles: [`super::costs::Round`] has them in this order.
pub(super) const ROLES: [Role; 4] = [
    Role { name: "without", server: false, client: false },
    Role { name: "control", server: false, client: false },
    Role { name: "server", server: true, client: false },
    Role { name: "both", server: true, client: true },
];

/// Rounds after which each pair has played each role once.
pub(super) const CYCLE: usize = ROLES.len();

/// The cgroups: those below the one that the agent watches, and the others.
pub(super) struct Stage {
    watched: Cgroups,
    unwatched: Cgroups,
}

impl Stage {
    /// Makes them, and ends what an earlier, killed run left in them.
    pub(super) fn claim() -> anyhow::Result<Self> {
        Ok(Self {
            watched: Cgroups::claim("faultline-cost-watched")?,
            unwatched: Cgroups::claim("faultline-cost-unwatched")?,
        })
    }

    /// What the agent watches.
    pub(super) fn root(&self) -> anyhow::Result<PathBuf> {
        self.watched.v2_folder().context("no cgroup v2")
    }

    /// Where the ends of a role are.
    pub(super) fn places(&self, role: &Role) -> anyhow::Result<Places> {
        let of = |watched: bool, end: &str| {
            let cgroups = if watched { &self.watched } else { &self.unwatched };
            let cgroups = cgroups.place(&format!("{}-{end}", role.name), Limits::default())?;
            anyhow::Ok(Place { cgroups, watched })
        };
        Ok(Places { server: of(role.server, "server")?, client: of(role.client, "client")? })
    }

    /// Removes them with whoever is in them.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        self.watched.remove().and(self.unwatched.remove())
    }
}

/// The pairs, each in its role.
pub(super) struct Company {
    program: Program,
    places: Vec<Places>,
    pairs: Vec<Pair>,
    /// The same pairs in all rounds, which change their roles. Else each round has new ones.
    lasting: bool,
}

impl Company {
    /// Nobody yet.
    pub(super) fn new(stage: &Stage, program: Program) -> anyhow::Result<Self> {
        // A process has its libraries for as long as it lives, so it cannot change its role.
        let lasting = program.unwatched_libraries.is_none();
        let places = ROLES.iter().map(|role| stage.places(role)).collect::<anyhow::Result<_>>()?;
        Ok(Self { program, places, pairs: Vec::new(), lasting })
    }

    /// How many rounds give one value in which no pair counts more than another.
    pub(super) fn cycle(&self) -> usize {
        if self.lasting { CYCLE } else { 1 }
    }

    /// The pairs of the next round, by role, connected anew.
    pub(super) fn gather(&mut self) -> anyhow::Result<()> {
        if self.lasting && !self.pairs.is_empty() {
            self.pairs.rotate_left(1);
            for (pair, places) in self.pairs.iter().zip(&self.places) {
                pair.enter(places)?;
            }
        } else {
            self.pairs.clear();
            for places in &self.places {
                self.pairs.push(Pair::start(&self.program, places)?);
            }
        }
        self.pairs.iter_mut().try_for_each(Pair::connect)
    }

    /// The pairs by role.
    pub(super) fn pairs(&mut self) -> &mut [Pair] {
        &mut self.pairs
    }

    /// The pair both of whose ends are watched.
    pub(super) fn watched(&mut self) -> anyhow::Result<&mut Pair> {
        self.pairs.last_mut().context("nobody was gathered")
    }
}

/// In which order the roles have their turns: each round another begins, and every other cycle goes backwards, so
/// that none always follows the same one.
pub(super) fn turns(round: usize) -> [usize; CYCLE] {
    let cycle = round / CYCLE;
    std::array::from_fn(|turn| {
        let role = (round + cycle + turn) % CYCLE;
        if cycle.is_multiple_of(2) { role } else { CYCLE - 1 - role }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!([0, 1, 4, 5].map(turns), [[0, 1, 2, 3], [1, 2, 3, 0], [2, 1, 0, 3], [1, 0, 3, 2]]);
    }

    #[test]
    fn each_role_has_each_place_in_a_cycle() {
        for cycle in 0..8 {
            for role in 0..CYCLE {
                let rounds = cycle * CYCLE..(cycle + 1) * CYCLE;
                let mut places: Vec<_> =
                    rounds.map(|round| turns(round).iter().position(|turn| *turn == role)).collect();
                places.sort_unstable();
                assert_eq!(places, [Some(0), Some(1), Some(2), Some(3)]);
            }
        }
    }
}
