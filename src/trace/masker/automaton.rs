//! The searching automaton: all phrases and token prefixes in one tree with failure links.
//!
//! It is built once per set of masks and shared by the streams of a job. Besides the usual links each node
//! knows how many of the last bytes could still become a phrase or prefix ([`Automaton::hold`]): that is
//! what a stream must hold back, and no more. Time is linear in the text whatever the patterns are, since
//! both come from the user of a job. Text without any pattern is skipped with vector instructions
//! ([`Automaton::skip`]).

use std::collections::{BTreeSet, VecDeque};

use aho_corasick::packed;

/// Index of a node; 0 is the root, "nothing matched so far".
pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;

/// The searcher that skips plain text looks for at most this many first bytes of each pattern. More
/// would find the same places; fewer would stop at more words that are no pattern.
const HEAD: usize = 8;

#[derive(Clone, Copy)]
struct Node {
    /// The byte that leads here from the parent.
    byte: u8,
    /// A token prefix ends here.
    prefix: bool,
    first_child: NodeId,
    next_sibling: NodeId,
    /// Where the longest proper suffix of this node's text is found.
    fail: NodeId,
    /// Bytes at the end of the text that could still become a pattern.
    hold: u32,
    /// Length of the longest phrase that ends here; 0 where none does.
    phrase: u32,
}

/// The automaton. Nodes take 24 bytes a byte of pattern, the root's table 1 KiB.
pub(super) struct Automaton {
    nodes: Vec<Node>,
    root: Box<[NodeId; 256]>,
    heads: Option<packed::Searcher>,
    head_len: usize,
}

impl Automaton {
    /// Patterns must not be empty.
    pub(super) fn new<'a>(phrases: impl Iterator<Item = &'a [u8]>, prefixes: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut tree = Tree::new();
        let mut heads = BTreeSet::new();
        for phrase in phrases {
            let node = tree.insert(phrase);
            tree.nodes[node as usize].phrase = length(phrase.len());
            heads.insert(head(phrase));
        }
        for prefix in prefixes {
            let node = tree.insert(prefix);
            tree.nodes[node as usize].prefix = true;
            heads.insert(head(prefix));
        }
        tree.link();
        let head_len = heads.iter().map(|head| head.len()).max().unwrap_or(1);
        tree.nodes.shrink_to_fit();
        Self { heads: searcher(&heads), head_len, root: tree.root, nodes: tree.nodes }
    }

    #[cfg(test)]
    pub(super) fn memory_usage(&self) -> usize {
        let nodes = self.nodes.capacity() * size_of::<Node>() + size_of_val(&*self.root);
        nodes + self.heads.as_ref().map_or(0, packed::Searcher::memory_usage)
    }

    /// The node after one more byte.
    pub(super) fn step(&self, mut node: NodeId, byte: u8) -> NodeId {
        while node != ROOT {
            if let Some(child) = child(&self.nodes, node, byte) {
                return child;
            }
            node = self.nodes[node as usize].fail;
        }
        self.root[byte as usize]
    }

    /// The node of the same text's last `most` bytes, as far as what may follow is concerned.
    pub(super) fn within(&self, mut node: NodeId, most: usize) -> NodeId {
        while self.hold(node) > most {
            node = self.nodes[node as usize].fail;
        }
        node
    }

    /// How many of the last bytes could still become a phrase or a prefix.
    pub(super) fn hold(&self, node: NodeId) -> usize {
        self.nodes[node as usize].hold as usize
    }

    /// Length of the longest phrase that ends here.
    pub(super) fn phrase(&self, node: NodeId) -> Option<usize> {
        match self.nodes[node as usize].phrase {
            0 => None,
            length => Some(length as usize),
        }
    }

    /// Whether a token prefix ends here.
    pub(super) fn prefix(&self, node: NodeId) -> bool {
        self.nodes[node as usize].prefix
    }

    /// The first place at or after `from` where a pattern could begin, with nothing matched before it.
    /// It may be one where none does; it never passes over one.
    pub(super) fn skip(&self, text: &[u8], from: usize) -> usize {
        // A pattern may begin in the last bytes without its whole head being there yet.
        let tail = text.len().saturating_sub(self.head_len - 1).max(from);
        let Some(heads) = &self.heads else {
            let starts = |byte: &u8| self.root[*byte as usize] != ROOT;
            return text.get(from..).and_then(|rest| rest.iter().position(starts)).map_or(text.len(), |at| from + at);
        };
        if tail == from {
            return from;
        }
        heads.find_in(text, (from..text.len()).into()).map_or(tail, |found| found.start().min(tail))
    }
}

/// Nodes and links while they are made.
struct Tree {
    nodes: Vec<Node>,
    root: Box<[NodeId; 256]>,
}

impl Tree {
    fn new() -> Self {
        let root =
            Node { byte: 0, prefix: false, first_child: ROOT, next_sibling: ROOT, fail: ROOT, hold: 0, phrase: 0 };
        Self { nodes: vec![root], root: Box::new([ROOT; 256]) }
    }

    fn insert(&mut self, pattern: &[u8]) -> NodeId {
        pattern.iter().fold(ROOT, |node, &byte| self.child_or_new(node, byte))
    }

    fn child_or_new(&mut self, parent: NodeId, byte: u8) -> NodeId {
        let known = if parent == ROOT {
            Some(self.root[byte as usize]).filter(|&id| id != ROOT)
        } else {
            child(&self.nodes, parent, byte)
        };
        if let Some(known) = known {
            return known;
        }
        let id = length(self.nodes.len());
        let next_sibling = std::mem::replace(&mut self.nodes[parent as usize].first_child, id);
        self.nodes.push(Node { byte, prefix: false, first_child: ROOT, next_sibling, fail: ROOT, hold: 0, phrase: 0 });
        if parent == ROOT {
            self.root[byte as usize] = id;
        }
        id
    }

    /// Sets failure links and what follows from them, shorter texts first.
    fn link(&mut self) {
        let mut queue = VecDeque::from([(ROOT, 0_u32)]);
        while let Some((parent, depth)) = queue.pop_front() {
            let mut id = self.nodes[parent as usize].first_child;
            while id != ROOT {
                let node = self.nodes[id as usize];
                let fail = if parent == ROOT { ROOT } else { self.after_failing(parent, node.byte) };
                let shorter = self.nodes[fail as usize];
                let node = &mut self.nodes[id as usize];
                node.fail = fail;
                node.hold = if node.first_child == ROOT { shorter.hold } else { depth + 1 };
                node.prefix |= shorter.prefix;
                if node.phrase == 0 {
                    node.phrase = shorter.phrase;
                }
                queue.push_back((id, depth + 1));
                id = node.next_sibling;
            }
        }
    }

    fn after_failing(&self, parent: NodeId, byte: u8) -> NodeId {
        let mut node = parent;
        while node != ROOT {
            node = self.nodes[node as usize].fail;
            if node != ROOT
                && let Some(child) = child(&self.nodes, node, byte)
            {
                return child;
            }
        }
        self.root[byte as usize]
    }
}

/// The child of a node other than the root, whose children stand in a table.
fn child(nodes: &[Node], parent: NodeId, byte: u8) -> Option<NodeId> {
    let mut id = nodes[parent as usize].first_child;
    while id != ROOT {
        let node = &nodes[id as usize];
        if node.byte == byte {
            return Some(id);
        }
        id = node.next_sibling;
    }
    None
}

fn head(pattern: &[u8]) -> &[u8] {
    pattern.get(..HEAD).unwrap_or(pattern)
}

/// None where there are more heads than the vector searcher takes, or a machine without it.
fn searcher(heads: &BTreeSet<&[u8]>) -> Option<packed::Searcher> {
    let mut builder = packed::Config::new().builder();
    builder.extend(heads);
    builder.build()
}

/// Patterns come from a job's payload, which is limited far below 4 GiB.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
