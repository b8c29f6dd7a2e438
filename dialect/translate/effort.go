package translate

// Effort and budget say the same of how much to think, by a word and by a bound
// on tokens. The numbers are floway's own.
var budgets = []struct {
	effort string
	// messages and gemini are budgets in tokens; gemini's level is for models that
	// take levels.
	messages, gemini int64
	level            string
}{
	{"minimal", 1024, 512, "MINIMAL"},
	{"low", 2048, 2048, "LOW"},
	{"medium", 8192, 8192, "MEDIUM"},
	{"high", 16384, 24576, "HIGH"},
	{"xhigh", 32768, 32768, "HIGH"},
	{"max", 32768, 32768, "HIGH"},
}

// effortOf returns the effort whose budget in Messages is nearest.
func effortOf(budget int64) string {
	best := 0
	for i := range budgets {
		if abs(budgets[i].messages-budget) < abs(budgets[best].messages-budget) {
			best = i
		}
	}
	return budgets[best].effort
}

func abs(n int64) int64 { return max(n, -n) }

// knownEffort says whether a word is an effort.
func knownEffort(word string) bool {
	if word == "none" {
		return true
	}
	for i := range budgets {
		if budgets[i].effort == word {
			return true
		}
	}
	return false
}
