//! The stages that a program can supply.

use crate::error::{Error, Result};

/// An error of a stage.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// Changes a text before it is embedded, for example takes out names or markup. A function `Fn(&str) -> String` is one.
pub trait Scrub: Send + Sync {
    /// Returns the text to embed.
    ///
    /// # Errors
    /// The reason why the text is not to be embedded. It fails alone.
    fn scrub(&self, text: &str) -> Result<String, StageError>;
}

impl<F: Fn(&str) -> String + Send + Sync> Scrub for F {
    fn scrub(&self, text: &str) -> Result<String, StageError> {
        Ok(self(text))
    }
}

/// Makes one vector of those of all models. A function `Fn(&[&[f32]]) -> Vec<f32>` is one.
pub trait Fuse: Send + Sync {
    /// Checks the number of models, when the pipeline is built.
    ///
    /// # Errors
    /// The reason why it cannot fuse the vectors of so many models.
    fn check(&self, _models: usize) -> Result<(), StageError> {
        Ok(())
    }

    /// Returns the vector of a text, from that of each model in the pipeline's order.
    ///
    /// # Errors
    /// The reason why it cannot. The text fails alone.
    fn fuse(&self, vectors: &[&[f32]]) -> Result<Vec<f32>, StageError>;
}

impl<F: Fn(&[&[f32]]) -> Vec<f32> + Send + Sync> Fuse for F {
    fn fuse(&self, vectors: &[&[f32]]) -> Result<Vec<f32>, StageError> {
        Ok(self(vectors))
    }
}

/// Puts the models' vectors one after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Concatenate;

impl Fuse for Concatenate {
    fn fuse(&self, vectors: &[&[f32]]) -> Result<Vec<f32>, StageError> {
        Ok(vectors.concat())
    }
}

/// The mean of the models' vectors by weights. Means of vectors of length 1 are shorter.
#[derive(Clone, Debug)]
pub struct WeightedMean {
    /// Their sum is 1.
    weights: Vec<f64>,
}

impl WeightedMean {
    /// Takes a weight for each model.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a weight that is negative or not finite, or if all are 0.
    pub fn new(weights: impl IntoIterator<Item = f32>) -> Result<Self> {
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let sum: f64 = weights.iter().sum();
        let is_weight = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        if sum <= 0.0 || !weights.iter().all(is_weight) {
            return Err(Error::InvalidOption {
                name: "weights",
                value: format!("{weights:?}"),
                reason: "weights are finite and not negative, and one is above 0".to_owned(),
            });
        }
        Ok(Self {
            weights: weights.iter().map(|weight| weight / sum).collect(),
        })
    }
}

impl Fuse for WeightedMean {
    fn check(&self, models: usize) -> Result<(), StageError> {
        match self.weights.len() {
            weights if weights == models => Ok(()),
            weights => Err(format!("there are {weights} weights for {models} models").into()),
        }
    }

    fn fuse(&self, vectors: &[&[f32]]) -> Result<Vec<f32>, StageError> {
        self.check(vectors.len())?;
        let dimension = vectors.first().map_or(0, |first| first.len());
        let mut sums = vec![0.0; dimension];
        for (weight, vector) in self.weights.iter().zip(vectors) {
            if vector.len() != dimension {
                let found: Vec<_> = vectors.iter().map(|vector| vector.len()).collect();
                return Err(format!("vectors of {found:?} values have no mean").into());
            }
            for (sum, value) in sums.iter_mut().zip(*vector) {
                *sum += weight * f64::from(*value);
            }
        }
        Ok(sums.into_iter().map(|sum| sum as f32).collect())
    }
}

/// Takes a text's vector, for example into a database. A function `Fn(&str, &[f32]) -> Result<(), StageError>` is one.
pub trait Deliver: Send + Sync {
    /// Takes the vector of a text, which is as it was embedded: scrubbed. Runs on the thread that polls or waits for the
    /// future, so it should be short.
    ///
    /// # Errors
    /// The reason why it did not. The text fails alone.
    fn deliver(&self, text: &str, vector: &[f32]) -> Result<(), StageError>;
}

impl<F: Fn(&str, &[f32]) -> Result<(), StageError> + Send + Sync> Deliver for F {
    fn deliver(&self, text: &str, vector: &[f32]) -> Result<(), StageError> {
        self(text, vector)
    }
}
