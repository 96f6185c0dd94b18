//! Who calls whom: a tree in a few layers below the entry, wide because busy callers get more callees, and
//! over it shared services that many call. Calls only go to deeper layers, so that they end.

use super::Draw;

/// Share of services that call no other one: 39 % in Winchester et al.
const LEAVES: f64 = 0.39;
/// One in so many services is a hot spot that many others share.
const SERVICES_PER_HOT_SPOT: usize = 25;
/// A service that calls others calls a given hot spot so often.
const CALLS_HOT_SPOT: f64 = 0.12;
/// Chance of a call across the tree, for a service that calls others.
const CALLS_ACROSS: f64 = 0.08;
/// A service in the middle that has no child of its own calls a hot spot so often, else any leaf.
const LEANS_ON_HOT_SPOT: f64 = 0.4;

/// Services by number; 0 is the entry.
pub(super) struct Shape {
    pub(super) nodes: Vec<Node>,
}

/// One service: where it is and whom it calls.
#[derive(Clone)]
pub(super) struct Node {
    /// Calls between the entry and it, at least.
    pub(super) layer: u32,
    /// Calls nobody.
    pub(super) leaf: bool,
    /// Callees that only it, or it first, calls: each of their methods is called from here.
    pub(super) children: Vec<usize>,
    /// Callees that others have as a child.
    pub(super) shared: Vec<usize>,
}

pub(super) fn draw(services: usize, draw: &mut Draw) -> Shape {
    let deepest = deepest_layer(services, draw);
    let mut nodes = vec![Node { layer: 0, leaf: false, children: Vec::new(), shared: Vec::new() }];
    for number in 1..services {
        // Preferential attachment makes the few wide callers; the layer of the parent decides the depth.
        let weights: Vec<f64> = nodes
            .iter()
            .map(|node| match (node.leaf, node.layer < deepest) {
                (false, true) => attraction(node),
                _ => 0.0,
            })
            .collect();
        let parent = draw.weighted(&weights);
        let layer = nodes.get(parent).map_or(1, |parent| parent.layer + 1);
        // The first ones may be needed as callers; the last one as a callee.
        let leaf = number + 1 == services || (number > 3 && draw.chance(LEAVES));
        if let Some(parent) = nodes.get_mut(parent) {
            parent.children.push(number);
        }
        nodes.push(Node { layer, leaf, children: Vec::new(), shared: Vec::new() });
    }
    let mut shape = Shape { nodes };
    shape.share(draw);
    shape
}

/// Layers below the entry: mostly three to five, fewer where there are few services.
fn deepest_layer(services: usize, draw: &mut Draw) -> u32 {
    let drawn = 2 + u32::try_from(draw.weighted(&[0.15, 0.35, 0.35, 0.15])).unwrap_or(0);
    match services {
        0..=3 => 1,
        4..=9 => drawn.min(2),
        10..=19 => drawn.min(3),
        _ => drawn,
    }
}

/// The more callees, the more come; deeper callers get fewer, so that most trees are shallow.
fn attraction(node: &Node) -> f64 {
    let callees = u32::try_from(node.children.len()).map_or(0.0, f64::from);
    (1.0 + 0.6 * callees) / f64::from(1 + node.layer).sqrt()
}

impl Shape {
    /// Adds calls to services that others already have: hot spots, and a few across the tree.
    fn share(&mut self, draw: &mut Draw) {
        let services = self.nodes.len();
        let leaves: Vec<usize> = (0..services).filter(|&at| self.calls_nobody(at)).collect();
        let one = |from: &[usize], draw: &mut Draw| from.get(draw.below(from.len())).copied();
        let spots = services / SERVICES_PER_HOT_SPOT + usize::from(services >= 10);
        let hot: Vec<usize> = (0..spots).filter_map(|_| one(&leaves, draw)).collect();
        for at in 0..services {
            if self.calls_nobody(at) {
                continue;
            }
            for &spot in &hot {
                if draw.chance(CALLS_HOT_SPOT) {
                    self.connect(at, spot);
                }
            }
            if self.nodes.get(at).is_some_and(|node| node.children.is_empty() && node.shared.is_empty()) {
                let from = if draw.chance(LEANS_ON_HOT_SPOT) && !hot.is_empty() { &hot } else { &leaves };
                if let Some(leaf) = one(from, draw) {
                    self.connect(at, leaf);
                }
            }
            if draw.chance(CALLS_ACROSS) {
                let other = draw.below(services);
                self.connect(at, other);
            }
        }
    }

    fn calls_nobody(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|node| node.leaf)
    }

    /// Only to deeper layers, or to one that calls nobody, and only once.
    fn connect(&mut self, from: usize, to: usize) {
        let ends = self.calls_nobody(to);
        let Some(deep) = self.nodes.get(to).map(|node| node.layer) else { return };
        if let Some(node) = self.nodes.get_mut(from)
            && from != to
            && (ends || deep > node.layer)
            && !node.children.contains(&to)
            && !node.shared.contains(&to)
        {
            node.shared.push(to);
        }
    }
}
