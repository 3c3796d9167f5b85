"""OwlEval: questions asked, answers rated by people and judges, ratings reported."""
