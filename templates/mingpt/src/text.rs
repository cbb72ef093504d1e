//! A text as tokens, one per character, cut into windows.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::data::{BatchDataset, sample_seed};
use ddp_runtime::{Error, Result as DdpResult};
use tch::Tensor;

/// The characters of a text, sorted: a token is a character's place.
#[derive(Debug)]
pub struct Vocabulary {
    characters: Vec<char>,
    tokens: HashMap<char, i64>,
}

impl Vocabulary {
    pub fn from_text(text: &str) -> Self {
        let characters: Vec<char> = text.chars().collect::<BTreeSet<_>>().into_iter().collect();
        let tokens = characters.iter().enumerate().map(|(token, &character)| (character, token as i64)).collect();
        Self { characters, tokens }
    }

    /// All characters, in the order of their tokens.
    pub fn characters(&self) -> String {
        self.characters.iter().collect()
    }

    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let token = |character| {
            let token = self.tokens.get(&character).copied();
            token.with_context(|| format!("{character:?} is not in the text that was learned: {:?}", self.characters()))
        };
        text.chars().map(token).collect()
    }

    pub fn decode(&self, token: i64) -> char {
        self.characters[token as usize]
    }
}

/// A text to learn.
pub struct Text {
    pub vocabulary: Vocabulary,
    tokens: Vec<i64>,
}

impl Text {
    /// The first part of the file at `path`: `truncate` of it, up to 1.
    pub fn read(path: &Path, truncate: f64) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("can't read the text {}", path.display()))?;
        let vocabulary = Vocabulary::from_text(&text);
        let mut tokens = vocabulary.encode(&text)?;
        tokens.truncate((tokens.len() as f64 * truncate) as usize);
        Ok(Self { vocabulary, tokens })
    }

    /// The first `train_split` of it for training, the rest for testing, in windows of `block_size`.
    pub fn split(self, train_split: f64, block_size: usize, seed: u64) -> Result<(Windows, Windows)> {
        let at = (self.tokens.len() as f64 * train_split) as usize;
        let (train, test) = self.tokens.split_at(at);
        Ok((Windows::new(train, block_size, Some(seed))?, Windows::new(test, block_size, None)?))
    }
}

/// Windows side by side. With a seed, each epoch cuts the text at other places.
#[derive(Clone)]
pub struct Windows {
    tokens: Arc<[i64]>,
    block_size: usize,
    seed: Option<u64>,
}

impl Windows {
    fn new(tokens: &[i64], block_size: usize, seed: Option<u64>) -> Result<Self> {
        let needed = 2 * block_size;
        ensure!(
            tokens.len() >= needed,
            "{} characters are too few: training and testing need at least {needed} each. Take a longer text, more of it \
             (--truncate), another --train-split, or a smaller --block-size",
            tokens.len()
        );
        Ok(Self { tokens: tokens.into(), block_size, seed })
    }
}

/// A batch: `Int64` tokens of shape [windows, block_size], and the tokens that come after each.
impl BatchDataset for Windows {
    type Batch = (Tensor, Tensor);

    fn len(&self) -> usize {
        // The last one's place is for what an epoch leaves out at the front, and for the target after the last token.
        self.tokens.len() / self.block_size - 1
    }

    fn batch(&self, indices: &[i64]) -> DdpResult<Self::Batch> {
        self.windows(indices, 0)
    }

    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> DdpResult<Self::Batch> {
        let skipped = self.seed.map_or(0, |seed| sample_seed(seed, epoch, 0) % self.block_size as u64);
        self.windows(indices, skipped as usize)
    }
}

impl Windows {
    fn windows(&self, indices: &[i64], skipped: usize) -> DdpResult<(Tensor, Tensor)> {
        let rows = |ahead: usize| {
            let start = |&index: &i64| skipped + ahead + index as usize * self.block_size;
            let tokens = indices.iter().map(start).flat_map(|at| &self.tokens[at..at + self.block_size]);
            let tokens: Vec<i64> = tokens.copied().collect();
            Tensor::f_from_slice(&tokens)
                .and_then(|rows| rows.f_view([-1, self.block_size as i64]))
                .map_err(Error::other)
        };
        Ok((rows(0)?, rows(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(seed: Option<u64>) -> Windows {
        Windows::new(&(0..23).collect::<Vec<_>>(), 4, seed).unwrap()
    }

    #[test]
    fn targets_are_one_token_ahead_and_each_epoch_cuts_differently() {
        let (x, y) = windows(None).batch(&[3, 0]).unwrap();
        assert_eq!(x, Tensor::from_slice2(&[[12i64, 13, 14, 15], [0, 1, 2, 3]]));
        assert_eq!(y, x + 1);
        let train = windows(Some(1));
        assert_eq!(train.len(), 4);
        let starts: BTreeSet<i64> = (0..40).map(|epoch| first_token(&train, epoch)).collect();
        assert_eq!(starts, BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(first_token(&train, 7), first_token(&train, 7));
    }

    fn first_token(windows: &Windows, epoch: u64) -> i64 {
        let (x, y) = windows.batch_in_epoch(epoch, &[0, 3]).unwrap(); // the last one is whole in every epoch
        assert_eq!(&x + 1, y);
        x.int64_value(&[0, 0])
    }

    #[test]
    fn text_is_encoded_and_decoded() {
        let vocabulary = Vocabulary::from_text("hello");
        assert_eq!(vocabulary.characters(), "ehlo");
        let tokens = vocabulary.encode("hole").unwrap();
        assert_eq!(tokens.iter().map(|&token| vocabulary.decode(token)).collect::<String>(), "hole");
        assert!(vocabulary.encode("x").unwrap_err().to_string().contains("'x' is not in the text"));
    }

    #[test]
    fn text_that_is_too_short_is_refused() {
        let problem = Windows::new(&[1; 7], 4, None).err().unwrap().to_string();
        assert!(problem.contains("7 characters are too few"), "{problem}");
    }
}
